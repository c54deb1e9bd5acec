//! Apache Parquet, row by row.
//!
//! The length of every page is in the file, and the reader believes it. So the headers of all
//! pages that will be read are walked first: a page that says it unpacks to more than
//! [`PAGE_BYTES_MAX`] makes the file refused before anything is unpacked.

use std::borrow::Cow;
use std::fs::File;
use std::os::unix::fs::FileExt;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;

use super::{Cell, Columns, Sink};
use crate::error::JobError;

/// Longest page, packed or not. Writers in use make pages of a megabyte.
const PAGE_BYTES_MAX: i64 = 64 * 1024 * 1024;
/// Pages of one file.
const PAGES_MAX: usize = 1_000_000;
/// Longest header of a page: statistics may hold a value.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Longest footer: the reader takes as much memory.
const FOOTER_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Rows unpacked at once.
const BATCH_ROWS: usize = 64;

/// Reads one file.
pub(super) fn read(
    name: &str,
    file: File,
    length: u64,
    columns: &Columns,
    sink: &mut Sink<'_, '_>,
) -> Result<(), JobError> {
    let bad = |what: String| JobError::Request(format!("{name}: {what}"));
    check_footer(&file, length).map_err(&bad)?;
    let copy = file.try_clone().map_err(|error| bad(error.to_string()))?;
    let reader = SerializedFileReader::new(file).map_err(|error| bad(error.to_string()))?;
    let schema = reader.metadata().file_metadata().schema();
    let names: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
    for column in columns.needed() {
        if !names.contains(&column) {
            return Err(bad(format!("no column {column:?}; it has {}", names.join(", "))));
        }
    }
    check_pages(&copy, length, &reader, columns).map_err(&bad)?;
    let read = schema.get_fields().iter().filter(|field| columns.reads(field.name())).cloned();
    let projection = Type::group_type_builder(schema.name())
        .with_fields(read.collect())
        .build()
        .map_err(|error| bad(error.to_string()))?;
    let rows = reader.get_row_iter(Some(projection)).map_err(|error| bad(error.to_string()))?;
    for (number, row) in rows.with_batch_size(BATCH_ROWS).enumerate() {
        let place = || format!("{name}: row {number}");
        // After an error the rest of the file cannot be found.
        let row = row.map_err(|error| bad(format!("row {number}: {error}")))?;
        let cells: Vec<(&str, Cell<'_>)> =
            row.get_column_iter().map(|(name, field)| (name.as_str(), cell(field))).collect();
        columns.take(&cells, place, sink)?;
    }
    Ok(())
}

fn cell(field: &Field) -> Cell<'_> {
    match field {
        Field::Str(text) => Cell::Text(Cow::Borrowed(text)),
        Field::Bool(truth) => Cell::Number(f64::from(u8::from(*truth))),
        Field::Byte(number) => Cell::Number(f64::from(*number)),
        Field::Short(number) => Cell::Number(f64::from(*number)),
        Field::Int(number) => Cell::Number(f64::from(*number)),
        Field::UByte(number) => Cell::Number(f64::from(*number)),
        Field::UShort(number) => Cell::Number(f64::from(*number)),
        Field::UInt(number) => Cell::Number(f64::from(*number)),
        Field::Long(number) => Cell::Number(*number as f64),
        Field::ULong(number) => Cell::Number(*number as f64),
        Field::Float(number) => Cell::Number(f64::from(*number)),
        Field::Double(number) => Cell::Number(*number),
        Field::Bytes(bytes) => {
            std::str::from_utf8(bytes.data()).map_or(Cell::Other, |t| Cell::Text(Cow::Borrowed(t)))
        }
        _ => Cell::Other,
    }
}

fn check_footer(file: &File, length: u64) -> Result<(), String> {
    let mut tail = [0u8; 8];
    let at = length.checked_sub(12).ok_or("too short for a Parquet file")? + 4;
    file.read_exact_at(&mut tail, at).map_err(|error| error.to_string())?;
    let (footer, magic) = tail.split_at(4);
    let footer = u32::from_le_bytes(footer.try_into().expect("four bytes"));
    if magic != b"PAR1" {
        return Err("not a Parquet file".into());
    }
    if footer > FOOTER_BYTES_MAX {
        return Err(format!("a footer of {footer} bytes, at most {FOOTER_BYTES_MAX}"));
    }
    Ok(())
}

/// Walks the headers of all pages of the columns that are read.
fn check_pages(
    file: &File,
    length: u64,
    reader: &SerializedFileReader<File>,
    columns: &Columns,
) -> Result<(), String> {
    let mut pages = 0;
    for group in reader.metadata().row_groups() {
        for chunk in group.columns() {
            let top = chunk.column_path().parts().first().map_or("", String::as_str);
            if !columns.reads(top) {
                continue;
            }
            let (mut at, bytes) = chunk.byte_range();
            let end = at.checked_add(bytes).filter(|end| *end <= length);
            let end = end.ok_or("a column lies beyond the end of the file")?;
            while at < end {
                pages += 1;
                if pages > PAGES_MAX {
                    return Err(format!("more than {PAGES_MAX} pages"));
                }
                let left = usize::try_from(end - at).unwrap_or(usize::MAX);
                let mut head = vec![0u8; left.min(HEADER_BYTES_MAX)];
                file.read_exact_at(&mut head, at).map_err(|error| error.to_string())?;
                let (header, unpacked, packed) =
                    page_header(&head).ok_or("a page with a damaged header")?;
                if !(0..=PAGE_BYTES_MAX).contains(&unpacked)
                    || !(0..=PAGE_BYTES_MAX).contains(&packed)
                {
                    return Err(format!(
                        "a page of {packed} bytes that unpacks to {unpacked}, at most \
                         {PAGE_BYTES_MAX}"
                    ));
                }
                let page = u64::try_from(header).unwrap_or(u64::MAX);
                at = at.saturating_add(page).saturating_add(u64::try_from(packed).unwrap_or(0));
            }
        }
    }
    Ok(())
}

/// Length of a page's header, and the page's length unpacked and packed. Thrift's compact
/// protocol: fields 2 and 3 of the structure, the others are stepped over.
fn page_header(bytes: &[u8]) -> Option<(usize, i64, i64)> {
    let mut input = Thrift { bytes, at: 0 };
    let (mut unpacked, mut packed, mut field) = (None, None, 0i64);
    loop {
        let Some((id, kind)) = input.field(field)? else {
            return Some((input.at, unpacked?, packed?));
        };
        field = id;
        match (id, kind) {
            (2, 5) => unpacked = Some(input.integer()?),
            (3, 5) => packed = Some(input.integer()?),
            _ => input.skip(kind, 0)?,
        }
    }
}

/// Structures deeper than this are not of a page's header.
const DEPTH_MAX: u32 = 16;

struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Thrift<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A zigzag integer.
    fn integer(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    /// Number and kind of the next field; the inner none ends the structure.
    fn field(&mut self, before: i64) -> Option<Option<(i64, u8)>> {
        let head = self.byte()?;
        if head == 0 {
            return Some(None);
        }
        let step = i64::from(head >> 4);
        let id = if step == 0 { self.integer()? } else { before.checked_add(step)? };
        Some(Some((id, head & 0x0f)))
    }

    fn advance(&mut self, bytes: u64) -> Option<()> {
        self.at = self.at.checked_add(usize::try_from(bytes).ok()?)?;
        (self.at <= self.bytes.len()).then_some(())
    }

    fn skip(&mut self, kind: u8, depth: u32) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        match kind {
            // Truth values lie in the field's head.
            1 | 2 => Some(()),
            3 => self.advance(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.advance(8),
            8 => {
                let length = self.varint()?;
                self.advance(length)
            }
            9 | 10 => {
                let head = self.byte()?;
                let short = u64::from(head >> 4);
                let count = if short == 15 { self.varint()? } else { short };
                let element = head & 0x0f;
                for _ in 0..count {
                    // In a list a truth value takes a byte.
                    let element = if element <= 2 { 3 } else { element };
                    self.skip(element, depth + 1)?;
                }
                Some(())
            }
            12 => {
                let mut before = 0;
                while let Some((id, kind)) = self.field(before)? {
                    before = id;
                    self.skip(kind, depth + 1)?;
                }
                Some(())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_pages() {
        // Type 0, unpacked 20, packed 18, then a structure with an integer and a text.
        let header = [0x15, 0, 0x15, 40, 0x15, 36, 0x2c, 0x15, 4, 0x18, 2, b'a', b'b', 0, 0, 99];
        assert_eq!(page_header(&header), Some((15, 20, 18)));
        for cut in 0..15 {
            assert_eq!(page_header(&header[..cut]), None, "{cut}");
        }
        // A list that says it has 2^60 elements ends with the bytes.
        let mut endless = vec![0x19, 0xf8];
        endless.extend([0xff; 8]);
        endless.push(0x0f);
        assert_eq!(page_header(&endless), None);
        assert_eq!(page_header(&[0x1c; 4_000]), None, "too deep");
    }
}
