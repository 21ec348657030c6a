//! Results on stdout: JSON for programs, aligned columns for people. Errors of writing are passed up, so that a closed
//! pipe ends a command quietly.

use std::io::{self, Write};

use serde::Serialize;

/// The flag of commands that answer with data.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct Format {
    /// Prints JSON
    #[arg(long)]
    pub json: bool,
}

/// One JSON document, indented, with a line break.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    line(&text)
}

/// One line.
pub fn line(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()?;
    Ok(())
}

/// Rows under a header, each column as wide as its widest cell. Numbers stand at the right.
pub fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(columns(header, rows).as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// The text of [`table`].
pub fn columns<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut to = String::new();
    let width: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).chain([header[column].chars().count()]).max().unwrap_or(0)
    });
    let numeric: [bool; N] = std::array::from_fn(|column| {
        let cells = || rows.iter().map(|row| row[column].as_str()).filter(|cell| *cell != "-");
        cells().next().is_some() && cells().all(|cell| cell.parse::<f64>().is_ok())
    });
    let mut push = |cells: [&str; N]| {
        let padded: [String; N] = std::array::from_fn(|column| {
            let (cell, width) = (cells[column], width[column]);
            if numeric[column] { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        to.push_str(padded.join("  ").trim_end());
        to.push('\n');
    };
    push(header);
    for row in rows {
        push(std::array::from_fn(|column| row[column].as_str()));
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_numbers_stand_right() {
        let text = columns(["topic", "records"], &[["a".to_owned(), "1000".to_owned()], ["longer-name".to_owned(), "7".to_owned()]]);
        assert_eq!(text, "topic        records\na               1000\nlonger-name        7\n");
    }
}
