//! What the subcommands of `ayni-worker` give: a table for people, one JSON object for programs,
//! the aims that were missed. The program prints it; nothing here writes to standard output.

use thiserror::Error;

use crate::error::JobError;

/// The figures of a subcommand.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// For people; the figures come last.
    pub table: String,
    /// For programs: one object.
    pub json: serde_json::Value,
    /// Aims that were not met, a sentence each. The program then exits with an error.
    pub missed: Vec<String>,
}

/// Why a subcommand gives no figures.
#[derive(Debug, Error)]
pub enum CommandError {
    /// A job failed.
    #[error(transparent)]
    Job(#[from] JobError),
    /// A file or another program.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// Anything else: what happened, why, what to do next.
    #[error("{0}")]
    Failed(String),
}

impl CommandError {
    /// For `map_err`: says what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

impl Figures {
    /// Rows of text as a table with aligned columns, the first row being the header.
    pub fn align(rows: &[Vec<String>]) -> String {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let pad = width.saturating_sub(cell.chars().count());
                line.push_str(cell);
                line.push_str(&" ".repeat(pad + 2));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let text = Figures::align(&[row(&["rule", "accuracy"]), row(&["médian", "0.9"])]);
        assert_eq!(text, "rule    accuracy\nmédian  0.9\n");
    }
}
