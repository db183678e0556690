//! What commands print: data on stdout, everything else on stderr.

use std::fmt::Display;
use std::io::{BufRead, IsTerminal, Write, stderr, stdin, stdout};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::exit::{Failure, Outcome};
use super::stderr::Stderr;
pub(super) use crate::show::one_line;

/// Prints data and a line end.
pub(super) fn data(text: impl Display) -> Outcome {
    let mut stdout = stdout().lock();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}

/// Prints a note for people to stderr.
pub(super) fn note(text: impl Display) {
    // Written in one piece; a failure is ignored.
    let _ = Stderr.write_all(format!("{text}\n").as_bytes());
}

/// Prints data as indented JSON.
pub(super) fn json(value: &impl Serialize) -> Outcome {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?;
    data(text)
}

/// Prints a table without lines, whose columns from `numbers` on are numbers.
pub(super) fn table(header: &[&str], rows: Vec<Vec<String>>, numbers: usize) -> Outcome {
    data(table_text(header, rows, numbers))
}

/// Returns such a table as text.
pub(super) fn table_text(header: &[&str], rows: Vec<Vec<String>>, numbers: usize) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().map(|name| name.to_uppercase()));
    table.add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 3));
        if index >= numbers {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Asks for confirmation of something that cannot be undone, unless `yes` is set. Fails if there is no terminal
/// to ask on.
pub(super) fn confirm(question: &str, yes: bool) -> Outcome {
    if yes {
        return Ok(());
    }
    if !stdin().is_terminal() || !stderr().is_terminal() {
        return Err(Failure::usage(format!(
            "{question} There is no terminal to answer on: use --yes to confirm"
        )));
    }
    let mut stderr = stderr().lock();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::failed("nothing was done")),
    }
}
