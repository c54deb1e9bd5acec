//! PNG and JPEG. Size and format are looked at before anything is decoded; what the decoder may
//! allocate is limited.

use std::fs::File;
use std::io::BufReader;

use image::imageops::FilterType;
use image::{DynamicImage, ImageFormat, ImageReader, Limits};

use super::{Sink, Target};
use crate::error::JobError;

/// Longest file of an image.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Longest side of an image.
const SIDE_MAX: u32 = 8_192;
/// What decoding may allocate: an image with sides of the largest length does not fit, most do.
const DECODED_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Reads an image named `CLASS.NUMBER.EXTENSION`.
pub(super) fn read(
    name: &str,
    file: File,
    length: u64,
    sink: &mut Sink<'_, '_>,
) -> Result<(), JobError> {
    let Target::Image { height, width, channels, .. } = sink.target() else { return Ok(()) };
    let place = || name.to_owned();
    let Some(label) = name.split('.').next().and_then(|class| class.parse().ok()) else {
        return sink.reject(place, "its name does not begin with the number of its class");
    };
    if length > FILE_BYTES_MAX {
        return sink.reject(place, "a file longer than 64 MiB");
    }
    match decode(file) {
        Err(reason) => sink.reject(place, reason),
        Ok(image) => {
            let image = if (image.width(), image.height()) == (width, height) {
                image
            } else {
                image.resize_exact(width, height, FilterType::Triangle)
            };
            let pixels = match channels {
                1 => image.into_luma8().into_raw(),
                2 => image.into_luma_alpha8().into_raw(),
                3 => image.into_rgb8().into_raw(),
                _ => image.into_rgba8().into_raw(),
            };
            sink.record(place, &pixels, label)
        }
    }
}

fn decode(file: File) -> Result<DynamicImage, &'static str> {
    let mut reader = ImageReader::new(BufReader::new(file))
        .with_guessed_format()
        .map_err(|_| "cannot be read")?;
    if !matches!(reader.format(), Some(ImageFormat::Png | ImageFormat::Jpeg)) {
        return Err("neither PNG nor JPEG");
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(DECODED_BYTES_MAX);
    reader.limits(limits);
    reader.decode().map_err(|error| match error {
        image::ImageError::Limits(_) => "an image too large to decode",
        _ => "a damaged image",
    })
}
