//! What commands print: data on stdout, everything else on stderr.

use std::fmt::Display;
use std::io::{BufRead, IsTerminal, Write, stderr, stdin, stdout};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::exit::{Failure, Outcome};
use super::stderr::Stderr;
pub(super) use crate::show::one_line;

/// Data, with a line end.
pub(super) fn data(text: impl Display) -> Outcome {
    let mut stdout = stdout().lock();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}

/// A word to people.
pub(super) fn note(text: impl Display) {
    // In one piece, and never an error.
    let _ = Stderr.write_all(format!("{text}\n").as_bytes());
}

/// Data as JSON, readable.
pub(super) fn json(value: &impl Serialize) -> Outcome {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?;
    data(text)
}

/// A table without lines, whose columns from `numbers` on are numbers.
pub(super) fn table(header: &[&str], rows: Vec<Vec<String>>, numbers: usize) -> Outcome {
    data(table_text(header, rows, numbers))
}

/// The same as text.
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

/// Asks before something that cannot be undone, unless `yes` was said already. Where there is nobody to ask,
/// the answer is no.
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
