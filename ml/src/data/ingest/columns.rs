//! Which cells of a row become a document.

use std::borrow::Cow;

use protocol::worker::IngestJob;

use super::{Sink, Target};
use crate::arithmetic::narrow;
use crate::error::JobError;

/// A value of a row.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::data) enum Cell<'a> {
    /// Text, also of a number in a format that has only text.
    Text(Cow<'a, str>),
    /// A number.
    Number(f64),
    /// Several numbers.
    Numbers(Vec<f64>),
    /// Nothing, or what no document is made of.
    Other,
}

/// What a job takes from a row.
pub(in crate::data) struct Columns {
    content: Option<String>,
    label: Option<String>,
    target: Target,
}

impl Columns {
    /// Checks that the job names what its target needs.
    pub(super) fn new(job: &IngestJob, target: Target) -> Result<Self, JobError> {
        let need = |what: &str| Err(JobError::Request(what.to_owned()));
        let numbers = matches!(target, Target::Numbers { .. });
        if job.text_column.is_none() && !numbers {
            return need("text_column: the column of the text is needed");
        }
        if job.label_column.is_none() && target.classes().is_some() {
            return need("label_column: the column of the label is needed");
        }
        Ok(Self { content: job.text_column.clone(), label: job.label_column.clone(), target })
    }

    /// Columns that must be there, for formats that know their columns before their rows.
    pub(super) fn needed(&self) -> impl Iterator<Item = &str> {
        self.content.iter().chain(&self.label).map(String::as_str)
    }

    /// Whether a column is read at all.
    pub(super) fn reads(&self, column: &str) -> bool {
        self.content.as_deref().is_none_or(|content| content == column)
            || self.label.as_deref() == Some(column)
    }

    /// Gives a row to the sink.
    pub(super) fn take(
        &self,
        row: &[(&str, Cell<'_>)],
        place: impl Fn() -> String,
        sink: &mut Sink<'_, '_>,
    ) -> Result<(), JobError> {
        let find = |column: &Option<String>| {
            let column = column.as_deref()?;
            row.iter().find(|(name, _)| *name == column).map(|(_, cell)| cell)
        };
        if let Target::Text = self.target {
            return match find(&self.content) {
                Some(Cell::Text(text)) => sink.text(place, text.as_bytes()),
                _ => sink.reject(place, "has no text in the text's column"),
            };
        }
        let Some(label) = find(&self.label).and_then(label) else {
            return sink.reject(place, "its label is not a whole number");
        };
        let content = match self.target {
            Target::Numbers { inputs, .. } => self.numbers(row, inputs),
            Target::TextRecord { bytes, .. } => match find(&self.content) {
                Some(Cell::Text(text)) => text_record(text, bytes),
                _ => Err("has no text in the text's column"),
            },
            Target::Text | Target::Image { .. } => Err("is no image"),
        };
        match content {
            Ok(content) => sink.record(place, &content, label),
            Err(reason) => sink.reject(place, reason),
        }
    }

    fn numbers(&self, row: &[(&str, Cell<'_>)], inputs: usize) -> Result<Vec<u8>, &'static str> {
        let mut content = Vec::with_capacity(4 * inputs);
        let mut push = |number: f64| {
            let number = narrow(number);
            if !number.is_finite() {
                return Err("a number is not finite");
            }
            if content.len() >= 4 * inputs {
                return Err("has more numbers than the model reads");
            }
            content.extend_from_slice(&number.to_le_bytes());
            Ok(())
        };
        for (name, cell) in row {
            if self.label.as_deref() == Some(*name) || !self.reads(name) {
                continue;
            }
            match cell {
                Cell::Number(number) => push(*number)?,
                Cell::Numbers(numbers) => numbers.iter().try_for_each(|number| push(*number))?,
                Cell::Text(text) => {
                    push(text.trim().parse().map_err(|_| "has text for a number")?)?
                }
                Cell::Other => return Err("a number is missing"),
            }
        }
        if content.len() == 4 * inputs {
            Ok(content)
        } else {
            Err("has fewer numbers than the model reads")
        }
    }
}

fn label(cell: &Cell<'_>) -> Option<u64> {
    match cell {
        Cell::Text(text) => text.trim().parse().ok(),
        // Labels are below 65,536, where every whole number is exact.
        Cell::Number(number) if number.fract() == 0.0 && (0.0..65_536.0).contains(number) => {
            Some(*number as u64)
        }
        _ => None,
    }
}

/// Length and bytes of a text, cut at a character's end and padded.
fn text_record(text: &str, bytes: usize) -> Result<Vec<u8>, &'static str> {
    if text.trim().is_empty() {
        return Err("empty");
    }
    let mut end = text.len().min(bytes).min(usize::from(u16::MAX));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let length = u16::try_from(end).map_err(|_| "longer than a record")?;
    let mut content = length.to_le_bytes().to_vec();
    content.extend_from_slice(&text.as_bytes()[..end]);
    content.resize(2 + bytes, 0);
    Ok(content)
}
