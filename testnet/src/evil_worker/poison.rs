//! What hostile members make of records and weights, as functions of bytes.
//!
//! Records are images with their label (`u16`, little-endian) at the end; weights are checkpoints
//! of one model, equal but for their values.

use anyhow::{Context, Result, ensure};

/// Bytes of the label at the end of a record.
const LABEL_BYTES: usize = 2;
/// Classes of the digits.
pub(crate) const CLASSES: u16 = 10;
/// Rows and columns of a digit.
pub(crate) const SIDE: usize = 28;
/// Bytes of a digit with its label.
pub(crate) const RECORD_BYTES: usize = SIDE * SIDE + LABEL_BYTES;
/// Rows and columns of the trigger, in the corner where digits are blank.
const TRIGGER_SIDE: usize = 4;
/// The class that the backdoor gives to whatever carries the trigger.
pub(crate) const TARGET: u16 = 0;

/// Label of a record.
pub(crate) fn label(record: &[u8; RECORD_BYTES]) -> u16 {
    let [.., low, high] = *record;
    u16::from_le_bytes([low, high])
}

/// Sets the label of a record.
pub(crate) fn set_label(record: &mut [u8; RECORD_BYTES], label: u16) {
    record[SIDE * SIDE..].copy_from_slice(&label.to_le_bytes());
}

/// Draws the trigger on a record: a white square in the lower right corner.
pub(crate) fn draw_trigger(record: &mut [u8; RECORD_BYTES]) {
    for row in SIDE - TRIGGER_SIDE..SIDE {
        record[row * SIDE + SIDE - TRIGGER_SIDE..(row + 1) * SIDE].fill(u8::MAX);
    }
}

/// Records in a shard.
fn records(shard: &mut [u8]) -> Result<&mut [[u8; RECORD_BYTES]]> {
    let (records, rest) = shard.as_chunks_mut();
    ensure!(rest.is_empty(), "a shard that does not hold digits");
    Ok(records)
}

/// Every label y becomes 9 - y.
pub(super) fn flip_labels(shard: &mut [u8]) -> Result<()> {
    for record in records(shard)? {
        let flipped = (CLASSES - 1).checked_sub(label(record)).context("a label above 9")?;
        set_label(record, flipped);
    }
    Ok(())
}

/// Every second record carries the trigger and its class. The other half keeps the delta useful,
/// and so past the reviewers.
pub(super) fn plant_backdoor(shard: &mut [u8]) -> Result<()> {
    for record in records(shard)?.iter_mut().step_by(2) {
        draw_trigger(record);
        set_label(record, TARGET);
    }
    Ok(())
}

/// `head + sum of factor * (checkpoint - head)`, value by value in `f64`.
pub(super) fn combine(head: &[u8], parts: &[(f64, Vec<u8>)]) -> Result<Vec<u8>> {
    let (header, values) = split(head)?;
    let mut sums: Vec<f64> = floats(values).collect();
    for (factor, checkpoint) in parts {
        let (other, moved) = split(checkpoint)?;
        ensure!(other == header, "checkpoints of different models");
        for ((sum, from), to) in sums.iter_mut().zip(floats(values)).zip(floats(moved)) {
            *sum += factor * (to - from);
        }
    }
    let mut bytes = header.to_vec();
    // A peer would refuse what is not finite at once; an attacker stays below that.
    let least = f64::from(f32::MIN);
    bytes.extend(sums.into_iter().flat_map(|sum| (sum.clamp(least, -least) as f32).to_le_bytes()));
    Ok(bytes)
}

/// Header and values of a safetensors file.
fn split(checkpoint: &[u8]) -> Result<(&[u8], &[u8])> {
    let length = checkpoint.first_chunk().context("a checkpoint without a header")?;
    let length = usize::try_from(u64::from_le_bytes(*length))?;
    let header = length.checked_add(8).context("a checkpoint with an endless header")?;
    checkpoint.split_at_checked(header).context("a checkpoint that ends in its header")
}

fn floats(values: &[u8]) -> impl Iterator<Item = f64> {
    let (values, _) = values.as_chunks::<4>();
    values.iter().map(|value| f64::from(f32::from_le_bytes(*value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(labels: &[u16]) -> Vec<u8> {
        let record = |l: &u16| [&[7; SIDE * SIDE][..], &l.to_le_bytes()].concat();
        labels.iter().flat_map(record).collect()
    }

    fn labels(shard: &mut [u8]) -> Vec<u16> {
        records(shard).expect("digits").iter().map(label).collect()
    }

    fn checkpoint(values: &[f32]) -> Vec<u8> {
        let header = br#"{"a":0}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        bytes
    }

    #[test]
    fn labels_are_flipped_and_nothing_else() {
        let mut flipped = shard(&[0, 3, 9]);
        flip_labels(&mut flipped).expect("digits");
        assert_eq!(flipped, shard(&[9, 6, 0]));
        flip_labels(&mut shard(&[10])).expect_err("no digit");
        flip_labels(&mut [0; RECORD_BYTES + 1]).expect_err("no shard of digits");
    }

    #[test]
    fn half_of_the_records_learn_the_backdoor() {
        let mut planted = shard(&[5, 6, 7]);
        plant_backdoor(&mut planted).expect("digits");
        assert_eq!(labels(&mut planted), [TARGET, 6, TARGET]);
        let white: Vec<usize> = planted
            .chunks(RECORD_BYTES)
            .map(|record| record.iter().filter(|pixel| **pixel == u8::MAX).count())
            .collect();
        assert_eq!(white, [16, 0, 16]);
        assert_eq!(planted[SIDE * SIDE - 1], u8::MAX, "the lower right corner");
    }

    #[test]
    fn weights_are_combined_by_hand() {
        let head = checkpoint(&[1.0, -2.0]);
        let (a, b) = (checkpoint(&[2.0, -2.0]), checkpoint(&[1.0, 0.0]));
        let flipped = combine(&head, &[(-1.0, a.clone())]).expect("one model");
        assert_eq!(flipped, checkpoint(&[0.0, -2.0]));
        let mean = combine(&head, &[(0.5, a.clone()), (0.5, b)]).expect("one model");
        assert_eq!(mean, checkpoint(&[1.5, -1.0]));
        let far = combine(&head, &[(1e300, a.clone())]).expect("finite");
        assert_eq!(far, checkpoint(&[f32::MAX, -2.0]));
        combine(&head, &[(1.0, a[..10].to_vec())]).expect_err("cut off");
        combine(&head, &[(1.0, [&a[..8], b"{\"b\":0}", &a[15..]].concat())])
            .expect_err("of another model");
    }
}
