//! Everything that is printed: tables and text for people, JSON for programs. What strangers
//! wrote (names, agents, generated text) cannot steer the terminal: control characters are
//! replaced.

use std::io::{self, ErrorKind, IsTerminal as _, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::failure::Failure;

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether programs read it.
    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    /// `value` as JSON for programs, `people`'s text for people.
    pub(crate) fn show<T: Serialize>(
        self,
        value: &T,
        people: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.json {
            let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
            print(&format!("{text}\n"))
        } else {
            print(&format!("{}\n", people().trim_end()))
        }
    }

    /// One line of a stream: compact JSON for programs, `people`'s text for people.
    pub(crate) fn stream<T: Serialize>(
        self,
        value: &T,
        people: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let line = if self.json {
            serde_json::to_string(value).map_err(io::Error::other)?
        } else {
            people()
        };
        print(&format!("{line}\n"))
    }

    /// A remark for people only.
    pub(crate) fn remark(self, text: &str) -> Result<(), Failure> {
        if self.json { Ok(()) } else { print(&format!("{text}\n")) }
    }
}

/// Writes `text` to standard output at once.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::reader_gone(),
        _ => Failure::from(error),
    })
}

/// Writes a line to standard error; there is nobody to tell if that fails.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Whether a person watches standard error, where progress is shown.
pub(crate) fn progress_is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Replaces control characters other than line ends and tabs.
pub(crate) fn clean(text: &str) -> String {
    let keep = |c: char| !c.is_control() || c == '\n' || c == '\t';
    text.chars().map(|c| if keep(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

/// A table with a head line; `empty` is said when there are no rows.
pub(crate) fn table<R>(head: &[&str], rows: R, empty: &str) -> String
where
    R: IntoIterator<Item = Vec<String>>,
{
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head);
    let arrangement = if io::stdout().is_terminal() {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    };
    table.set_content_arrangement(arrangement);
    for row in rows {
        table.add_row(row.iter().map(|cell| clean(cell).replace(['\n', '\t'], " ")));
    }
    if table.is_empty() {
        return empty.to_owned();
    }
    let lines = table.lines().map(|line| format!("{}\n", line.trim_end()));
    lines.collect()
}

/// Names and values, one a line.
pub(crate) fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| {
        format!("{name:width$}  {}\n", clean(value).replace('\n', " "))
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_steer_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\r\n\u{9b}c\t"), "a\u{fffd}[2Jb\u{fffd}\n\u{fffd}c\t");
        let shown = table(&["NAME"], [vec!["x\x1b]0;y\x07\nz".to_owned()]], "none");
        assert!(!shown.contains('\x1b') && !shown.contains('\x07'));
        assert_eq!(table(&["NAME"], [], "none"), "none");
    }
}
