//! The kept files of a wheel, which is a zip archive.

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use zip::ZipArchive;

use super::recipe::Wheel;
use crate::progress::{Meter, megabytes};

/// Bytes copied between two updates of the progress shown.
const COPY_BYTES: usize = 1 << 20;

/// Writes the kept files of the wheel at `archive` under `into`. Each file's CRC is checked.
pub fn unpack(wheel: &Wheel, archive: &Path, into: &Path) -> Result<()> {
    let name = &wheel.requirement;
    let file = File::open(archive).with_context(|| format!("{name}: the wheel is gone"))?;
    let mut zip = ZipArchive::new(BufReader::new(file))
        .with_context(|| format!("{name}: not a zip archive"))?;
    let kept = kept_entries(wheel, &mut zip)?;
    let total = kept.iter().map(|entry| entry.bytes).sum();
    let mut meter = Meter::new(format!("unpacking {name}"), total);
    let mut buffer = vec![0; COPY_BYTES];
    let mut done = 0;
    for entry in &kept {
        let path = into.join(&entry.destination);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut output =
            File::create(&path).with_context(|| format!("{} cannot be created", path.display()))?;
        let mut input = zip.by_index(entry.index)?;
        loop {
            let count = input
                .read(&mut buffer)
                .with_context(|| format!("{name}: {} is damaged", entry.destination))?;
            if count == 0 {
                break;
            }
            output
                .write_all(&buffer[..count])
                .with_context(|| format!("{} cannot be written", path.display()))?;
            done += count as u64;
            meter.set(done);
        }
    }
    meter.finish(&format!("{} files, {}", kept.len(), megabytes(done)));
    Ok(())
}

struct Entry {
    index: usize,
    destination: String,
    bytes: u64,
}

fn kept_entries(wheel: &Wheel, zip: &mut ZipArchive<BufReader<File>>) -> Result<Vec<Entry>> {
    let mut kept = Vec::new();
    for index in 0..zip.len() {
        let entry = zip.by_index_raw(index)?;
        if entry.is_dir() {
            continue;
        }
        let name = entry.name();
        if let Some(destination) = wheel.keep.iter().find_map(|keep| keep.destination(name)) {
            ensure!(
                entry.enclosed_name().is_some(),
                "{}: {name:?} would be written outside the folder",
                wheel.requirement
            );
            kept.push(Entry { index, destination, bytes: entry.size() });
        }
    }
    Ok(kept)
}
