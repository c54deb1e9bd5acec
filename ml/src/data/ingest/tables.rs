//! JSON Lines and CSV (RFC 4180), line by line. A line that is too long is skipped, not kept.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader};

use serde_json::Value;

use super::{Cell, Columns, Sink};
use crate::error::JobError;
use crate::files::FileError;

/// Longest line of JSON, or row of CSV: a document with every character escaped, and its labels.
const LINE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Fields of a row of CSV.
const FIELDS_MAX: usize = 100_000;

/// Reads a file with a JSON object on every line. Keys are taken in alphabetical order.
pub(super) fn jsonl(
    name: &str,
    file: File,
    columns: &Columns,
    sink: &mut Sink<'_, '_>,
) -> Result<(), JobError> {
    let failed = |source| JobError::from(FileError::Io { name: name.to_owned(), source });
    let mut input = BufReader::new(file);
    let (mut line, mut number) = (Vec::new(), 0u64);
    while let Some(whole) = next_line(&mut input, &mut line).map_err(failed)? {
        number += 1;
        let place = || format!("{name}: line {number}");
        if !whole {
            sink.reject(place, "a line longer than 8 MiB")?;
            continue;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        // Nesting deeper than 128 is an error of the parser, not of the stack.
        match serde_json::from_slice::<serde_json::Map<String, Value>>(&line) {
            Err(_) => sink.reject(place, "not a JSON object")?,
            Ok(object) => {
                let row: Vec<(&str, Cell<'_>)> =
                    object.iter().map(|(key, value)| (key.as_str(), cell(value))).collect();
                columns.take(&row, place, sink)?;
            }
        }
    }
    Ok(())
}

fn cell(value: &Value) -> Cell<'_> {
    match value {
        Value::String(text) => Cell::Text(Cow::Borrowed(text)),
        Value::Number(number) => number.as_f64().map_or(Cell::Other, Cell::Number),
        Value::Bool(truth) => Cell::Number(f64::from(u8::from(*truth))),
        Value::Array(values) => {
            let numbers: Option<Vec<f64>> = values.iter().map(Value::as_f64).collect();
            numbers.map_or(Cell::Other, Cell::Numbers)
        }
        _ => Cell::Other,
    }
}

/// The next line without its end; whether it is whole. None at the end of the file.
fn next_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<Option<bool>> {
    line.clear();
    let (mut whole, mut any) = (true, false);
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(any.then_some(whole));
        }
        any = true;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        if whole && line.len() + part.len() <= LINE_BYTES_MAX {
            line.extend_from_slice(part);
        } else {
            whole = false;
            line.clear();
        }
        let used = part.len() + usize::from(end.is_some());
        input.consume(used);
        if end.is_some() {
            return Ok(Some(whole));
        }
    }
}

/// Reads a file of comma-separated values with a header line.
pub(super) fn csv(
    name: &str,
    file: File,
    columns: &Columns,
    sink: &mut Sink<'_, '_>,
) -> Result<(), JobError> {
    let failed = |source| JobError::from(FileError::Io { name: name.to_owned(), source });
    let bad = |what: &str| JobError::Request(format!("{name}: {what}"));
    let mut rows = CsvRows { input: BufReader::new(file), row: Vec::new(), started: false };
    let header = match rows.next().map_err(failed)? {
        Some(Ok(())) => rows.texts().ok_or_else(|| bad("its header is not UTF-8"))?,
        _ => return Err(bad("no header line")),
    };
    let mut header: Vec<String> = header.into_iter().map(str::to_owned).collect();
    if let Some(first) = header.first_mut() {
        // A mark of byte order that spreadsheets write.
        *first = first.trim_start_matches('\u{feff}').to_owned();
    }
    for column in columns.needed() {
        if !header.iter().any(|name| name == column) {
            return Err(bad(&format!("no column {column:?}; it has {}", header.join(", "))));
        }
    }
    let mut number = 1u64;
    while let Some(row) = rows.next().map_err(failed)? {
        number += 1;
        let place = || format!("{name}: row {number}");
        if let Err(reason) = row {
            sink.reject(place, reason)?;
            continue;
        }
        if rows.row.len() == 1 && rows.row[0].is_empty() {
            continue;
        }
        let Some(texts) = rows.texts() else {
            sink.reject(place, "not UTF-8")?;
            continue;
        };
        if texts.len() != header.len() {
            sink.reject(place, "has another number of fields than the header")?;
            continue;
        }
        let cells = texts.into_iter().map(|text| Cell::Text(Cow::Borrowed(text)));
        let row: Vec<_> = header.iter().map(String::as_str).zip(cells).collect();
        columns.take(&row, place, sink)?;
    }
    Ok(())
}

/// Rows of CSV.
struct CsvRows<R> {
    input: R,
    /// Fields of the present row.
    row: Vec<Vec<u8>>,
    started: bool,
}

impl<R: BufRead> CsvRows<R> {
    fn texts(&self) -> Option<Vec<&str>> {
        self.row.iter().map(|field| std::str::from_utf8(field).ok()).collect()
    }

    /// Reads the next row. None at the end of the file; the inner error is a row that was skipped.
    fn next(&mut self) -> std::io::Result<Option<Result<(), &'static str>>> {
        self.row.clear();
        self.row.push(Vec::new());
        let (mut bytes, mut quoted, mut closed, mut any) = (0usize, false, false, false);
        let mut problem = None;
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                if quoted {
                    problem.get_or_insert("a quote that never ends");
                }
                let result = problem.map_or(Ok(()), Err);
                return Ok((any || (quoted && self.started)).then_some(result));
            }
            self.started = true;
            let length = buffer.len();
            let mut used = length;
            let mut ended = false;
            for (index, byte) in buffer.iter().enumerate() {
                any = true;
                bytes += 1;
                let field = self.row.last_mut().expect("a row has a field");
                match byte {
                    b'"' if quoted => (quoted, closed) = (false, true),
                    // A doubled quote stands for one.
                    b'"' if closed => {
                        field.push(b'"');
                        (quoted, closed) = (true, false);
                    }
                    b'"' if field.is_empty() => quoted = true,
                    b'\n' if !quoted => {
                        if field.last() == Some(&b'\r') {
                            field.pop();
                        }
                        (used, ended) = (index + 1, true);
                        break;
                    }
                    b',' if !quoted => {
                        closed = false;
                        if self.row.len() < FIELDS_MAX {
                            self.row.push(Vec::new());
                        } else {
                            problem = Some("has too many fields");
                        }
                    }
                    _ if bytes > LINE_BYTES_MAX => {
                        problem = Some("a row longer than 8 MiB");
                        field.clear();
                    }
                    other => field.push(*other),
                }
            }
            self.input.consume(used);
            if ended {
                return Ok(Some(problem.map_or(Ok(()), Err)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_quotes_commas_and_line_ends() {
        let text = b"a,b\r\n\"x, \"\"y\"\"\n2\",3\n,\nlast,\"open";
        let mut rows = CsvRows { input: &text[..], row: Vec::new(), started: false };
        let mut all = Vec::new();
        while let Some(row) = rows.next().expect("memory") {
            let fields = rows.texts().expect("UTF-8");
            all.push((row, fields.into_iter().map(String::from).collect::<Vec<_>>()));
        }
        let ok = |a: &str, b: &str| (Ok(()), vec![a.to_owned(), b.to_owned()]);
        assert_eq!(all[..3], [ok("a", "b"), ok("x, \"y\"\n2", "3"), ok("", "")]);
        assert_eq!(all[3].0, Err("a quote that never ends"));
        assert_eq!(all.len(), 4);
    }

    #[test]
    fn long_lines_are_skipped_not_kept() {
        let mut text = vec![b'x'; LINE_BYTES_MAX + 1];
        text.extend_from_slice(b"\nshort\n");
        let mut input = BufReader::new(&text[..]);
        let mut line = Vec::new();
        assert_eq!(next_line(&mut input, &mut line).expect("memory"), Some(false));
        assert_eq!(next_line(&mut input, &mut line).expect("memory"), Some(true));
        assert_eq!(line, b"short");
        assert_eq!(next_line(&mut input, &mut line).expect("memory"), None);
    }
}
