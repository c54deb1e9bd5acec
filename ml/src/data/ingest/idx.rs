//! MNIST's format: a big-endian header, then bytes (LeCun, Cortes, Burges).

use std::fs::File;
use std::io::{BufReader, Read};

use super::{Sink, Target};
use crate::error::JobError;

/// Magic of unsigned bytes in three dimensions, and in one.
const IMAGES: u32 = 0x0803;
const LABELS: u32 = 0x0801;

/// Reads a pair of files.
pub(super) fn read(
    name: &str,
    images: File,
    labels: File,
    sink: &mut Sink<'_, '_>,
) -> Result<(), JobError> {
    let Target::Image { height, width, channels, .. } = sink.target() else { return Ok(()) };
    let bad = |what: String| JobError::Request(format!("{name}: {what}"));
    let (mut images, mut labels) = (BufReader::new(images), BufReader::new(labels));
    let header = numbers::<4>(&mut images).map_err(&bad)?;
    let labelled = numbers::<2>(&mut labels).map_err(&bad)?;
    if header[0] != IMAGES || labelled[0] != LABELS {
        return Err(bad("not a pair of IDX files of bytes: images, then labels".into()));
    }
    if header[2..] != [height, width] || channels != 1 {
        let [_, _, rows, columns] = header;
        return Err(bad(format!(
            "images of {rows}x{columns}x1, the model reads {height}x{width}x{channels}"
        )));
    }
    if header[1] != labelled[1] {
        return Err(bad(format!("{} images and {} labels", header[1], labelled[1])));
    }
    let pixels = crate::tensors::index(height) * crate::tensors::index(width);
    let mut image = vec![0u8; pixels];
    for number in 0..header[1] {
        let mut label = [0u8];
        let short = |_| bad(format!("it ends before image {number} of {}", header[1]));
        images.read_exact(&mut image).map_err(short)?;
        labels.read_exact(&mut label).map_err(short)?;
        sink.record(|| format!("{name}: image {number}"), &image, u64::from(label[0]))?;
    }
    Ok(())
}

fn numbers<const N: usize>(input: &mut impl Read) -> Result<[u32; N], String> {
    let mut numbers = [0u32; N];
    for number in &mut numbers {
        let mut bytes = [0u8; 4];
        input.read_exact(&mut bytes).map_err(|_| "too short for an IDX file".to_owned())?;
        *number = u32::from_be_bytes(bytes);
    }
    Ok(numbers)
}
