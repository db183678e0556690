//! `mq-worker completions SHELL`: clap's script, extended to ask [`names`] for names that the broker knows.

mod line;
pub(super) mod names;
mod scripts;

use clap::CommandFactory;
use clap_complete::Shell;

use super::arguments::Arguments;
use super::exit::Outcome;
use super::output;

pub(super) fn run(shell: Shell) -> Outcome {
    // Into memory first: the generator panics when it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "mq-worker", &mut script);
    output::data(scripts::with_names(shell, &String::from_utf8_lossy(&script)).trim_end())
}
