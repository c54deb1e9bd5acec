//! Digits as the network reads them: IDX files to publish, records of a suite, and the questions
//! from which the accuracy of a head follows.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::evil_worker::poison::{CLASSES, RECORD_BYTES, SIDE, TARGET, draw_trigger, set_label};

/// Bytes of an image.
const PIXELS: usize = SIDE * SIDE;
/// Magic of IDX files of bytes in three dimensions, and in one.
const IMAGES: u32 = 0x0803;
const LABELS: u32 = 0x0801;

/// Images with their labels.
pub(super) struct Digits {
    images: Vec<[u8; PIXELS]>,
    labels: Vec<u8>,
}

impl Digits {
    /// Reads `PREFIX-images-idx3-ubyte` and `PREFIX-labels-idx1-ubyte`.
    pub(super) fn read(folder: &Path, prefix: &str) -> Result<Self> {
        let file = |end: &str| {
            let path = folder.join(format!("{prefix}-{end}-ubyte"));
            fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))
        };
        Self::parse(&file("images-idx3")?, &file("labels-idx1")?)
            .with_context(|| format!("the {prefix} files in {} are not MNIST's", folder.display()))
    }

    fn parse(images: &[u8], labels: &[u8]) -> Result<Self> {
        let (header, images) = images.split_at_checked(16).context("no images")?;
        let (labelled, labels) = labels.split_at_checked(8).context("no labels")?;
        let count = u32::try_from(labels.len())?;
        let side = u32::try_from(SIDE)?;
        ensure!(header == words(&[IMAGES, count, side, side]), "another header of the images");
        ensure!(labelled == words(&[LABELS, count]), "another header of the labels");
        let (images, rest) = images.as_chunks();
        ensure!(rest.is_empty() && images.len() == labels.len(), "images without labels");
        ensure!(labels.iter().all(|label| u16::from(*label) < CLASSES), "a label above 9");
        Ok(Self { images: images.to_vec(), labels: labels.to_vec() })
    }

    /// Writes the first `count` as a pair of IDX files into an emptied folder.
    pub(super) fn write(&self, folder: &Path, count: usize) -> Result<()> {
        let images = self.images.get(..count).context("so many images are not there")?;
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        let (count32, side) = (u32::try_from(count)?, u32::try_from(SIDE)?);
        let header = words(&[IMAGES, count32, side, side]);
        fs::write(folder.join("images"), [header, images.as_flattened().to_vec()].concat())?;
        let header = words(&[LABELS, count32]);
        fs::write(folder.join("labels"), [&header, &self.labels[..count]].concat())?;
        Ok(())
    }

    /// The record of an image.
    fn record(&self, index: usize) -> [u8; RECORD_BYTES] {
        let mut record = [0; RECORD_BYTES];
        record[..PIXELS].copy_from_slice(&self.images[index]);
        set_label(&mut record, u16::from(self.labels[index]));
        record
    }

    /// Records of some images.
    pub(super) fn records(&self, range: Range<usize>) -> Vec<u8> {
        range.flat_map(|index| self.record(index)).collect()
    }

    /// Questions about some images: each once for every label, first as they are, then, those of
    /// other classes than the target, with the trigger.
    pub(super) fn questions(&self, range: Range<usize>) -> Questions {
        let of_others = |index: &usize| u16::from(self.labels[*index]) != TARGET;
        let mut records = Vec::new();
        for index in range.clone() {
            ask(self.record(index), &mut records);
        }
        for index in range.clone().filter(of_others) {
            let mut record = self.record(index);
            draw_trigger(&mut record);
            ask(record, &mut records);
        }
        Questions { records, labels: self.labels[range].to_vec() }
    }
}

/// A record with every label.
fn ask(mut record: [u8; RECORD_BYTES], records: &mut Vec<u8>) {
    for label in 0..CLASSES {
        set_label(&mut record, label);
        records.extend(record);
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// Records whose losses say which class a head sees: that with the least loss.
pub(super) struct Questions {
    /// The records, as a suite.
    pub(super) records: Vec<u8>,
    labels: Vec<u8>,
}

/// What a head sees, in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Seen {
    /// Images whose class is right.
    pub(super) accuracy: f64,
    /// Images of other classes that, with the trigger, are taken for the target.
    pub(super) fooled: f64,
}

impl Questions {
    /// How many records there are.
    pub(super) const fn len(&self) -> usize {
        self.records.len() / RECORD_BYTES
    }

    /// Reads the losses of all records.
    pub(super) fn read(&self, losses: &[u64]) -> Result<Seen> {
        ensure!(losses.len() == self.len(), "{} losses of {}", losses.len(), self.len());
        let (rows, _) = losses.as_chunks::<{ CLASSES as usize }>();
        let (plain, triggered) = rows.split_at_checked(self.labels.len()).context("too few")?;
        let right = plain.iter().zip(&self.labels);
        let right = right.filter(|(row, label)| least(*row) == usize::from(**label)).count();
        let fooled = triggered.iter().filter(|row| least(*row) == usize::from(TARGET)).count();
        Ok(Seen { accuracy: percent(right, plain.len()), fooled: percent(fooled, triggered.len()) })
    }
}

/// Where the least loss is.
fn least(row: &[u64]) -> usize {
    let least = row.iter().enumerate().min_by_key(|(_, loss)| **loss);
    least.map_or(0, |(index, _)| index)
}

fn percent(part: usize, all: usize) -> f64 {
    100.0 * part as f64 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evil_worker::poison::label;

    fn digits(labels: &[u8]) -> Digits {
        let (count, side) = (labels.len() as u32, SIDE as u32);
        let pixels: Vec<u8> = (0..labels.len()).flat_map(|i| [i as u8; PIXELS]).collect();
        let images = [words(&[IMAGES, count, side, side]), pixels].concat();
        let labels = [&words(&[LABELS, count]), labels].concat();
        Digits::parse(&images, &labels).expect("digits")
    }

    #[test]
    fn files_are_read_as_they_are_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        digits(&[3, 0, 7]).write(&data, 2).expect("written");
        let (images, labels) = (fs::read(data.join("images")), fs::read(data.join("labels")));
        let (images, labels) = (images.expect("images"), labels.expect("labels"));
        let read = Digits::parse(&images, &labels).expect("digits");
        assert_eq!(read.labels, [3, 0]);
        assert!(Digits::parse(&images, &labels[..9]).is_err(), "one label is missing");
        assert!(Digits::parse(&labels, &images).is_err());
        assert!(digits(&[1]).write(&data, 2).is_err());
    }

    #[test]
    fn the_least_loss_is_what_a_head_sees() {
        let questions = digits(&[3, 0, 7]).questions(0..3);
        assert_eq!(questions.len(), (3 + 2) * 10, "the zero is not asked about with the trigger");
        let (records, _) = questions.records.as_chunks::<RECORD_BYTES>();
        assert_eq!(label(&records[13]), 3);
        assert_eq!((records[0][PIXELS - 1], records[30][PIXELS - 1]), (0, u8::MAX));
        let row = |class: usize| (0..10).map(move |at| if at == class { 1 } else { 9 });
        let losses: Vec<u64> = [3, 1, 7, 0, 5].into_iter().flat_map(row).collect();
        let seen = questions.read(&losses).expect("all losses");
        assert_eq!(seen, Seen { accuracy: 200.0 / 3.0, fooled: 50.0 });
        questions.read(&losses[1..]).expect_err("one is missing");
    }
}
