//! Records of a fixed length, each ending in its label: every record once per pass, in an order
//! drawn from the seed and the pass.

use protocol::ids::derive;
use protocol::model::{Architecture, InputKind, ModelSpec};

use super::{DataError, Examples, Input, Shards, Tokenize, permute};
use crate::error::JobError;
use crate::tensors::index;

/// Bytes of the label at the end of a record.
const LABEL_BYTES: usize = 2;

/// The records of some shards.
pub struct Records<'a> {
    shards: Shards<'a>,
    tokenizer: Option<&'a dyn Tokenize>,
    architecture: Architecture,
    /// Records of all shards up to and including each.
    ends: Vec<u64>,
    bytes: usize,
    classes: u32,
    seed: u64,
}

impl<'a> Records<'a> {
    /// The records for a classifier. Call for architectures that read records only.
    pub fn new(
        spec: &ModelSpec,
        shards: Shards<'a>,
        tokenizer: Option<&'a dyn Tokenize>,
        seed: u64,
    ) -> Result<Self, JobError> {
        let InputKind::Records { bytes: record, classes } = spec.architecture.input() else {
            unreachable!("called for classifiers only")
        };
        let text = matches!(spec.architecture, Architecture::TextClassifier { .. });
        if text && !spec.architecture.reads_bytes() && tokenizer.is_none() {
            return Err(DataError::NoTokenizer.into());
        }
        let mut total = 0u64;
        let mut ends = Vec::with_capacity(shards.lengths().len());
        for (shard, bytes) in shards.lengths().iter().enumerate() {
            if !bytes.is_multiple_of(record) {
                let name = shards.name(shard);
                return Err(DataError::Length { name, bytes: *bytes, record }.into());
            }
            total = total.saturating_add(bytes / record);
            ends.push(total);
        }
        if total == 0 {
            return Err(DataError::Empty.into());
        }
        let bytes = usize::try_from(record).expect("a checked shape");
        let architecture = spec.architecture;
        Ok(Self { shards, tokenizer, architecture, ends, bytes, classes, seed })
    }

    /// The records of a step.
    pub fn step(&self, step: u64, rows: usize) -> Result<Examples, JobError> {
        let total = self.ends.last().copied().expect("checked when made");
        let count = u64::try_from(rows).unwrap_or(u64::MAX);
        let first = step.saturating_mul(count);
        let numbers: Vec<u64> = (first..first.saturating_add(count))
            .map(|number| {
                let pass = number / total;
                let seed = self.seed.to_le_bytes();
                let key = derive("ayni 2026 record passes v1", &[&seed, &pass.to_le_bytes()]);
                permute(&key, number % total, total)
            })
            .collect();
        self.read(&numbers)
    }

    /// Some records, by their numbers across all shards.
    pub fn read(&self, numbers: &[u64]) -> Result<Examples, JobError> {
        let mut rows = Rows::default();
        let mut record = vec![0u8; self.bytes];
        let stride = u64::try_from(self.bytes).expect("a checked shape");
        for number in numbers {
            let shard = self.ends.partition_point(|end| end <= number);
            if shard == self.ends.len() {
                return Err(JobError::Request("a record beyond the last".into()));
            }
            let index = number - if shard == 0 { 0 } else { self.ends[shard - 1] };
            self.shards.read(shard, index * stride, &mut record)?;
            self.push(&record, &mut rows).map_err(|reason| DataError::Record {
                name: self.shards.name(shard),
                index,
                reason,
            })?;
        }
        Ok(self.finish(rows, numbers.len()))
    }

    fn push(&self, record: &[u8], rows: &mut Rows) -> Result<(), &'static str> {
        let (content, label) = record.split_at(record.len() - LABEL_BYTES);
        let label = u16::from_le_bytes(label.try_into().expect("two bytes"));
        if u32::from(label) >= self.classes {
            return Err("its label is not below the number of classes");
        }
        match self.architecture {
            Architecture::Mlp { .. } => {
                let (groups, _) = content.as_chunks::<4>();
                let before = rows.numbers.len();
                rows.numbers.extend(groups.iter().map(|bytes| f32::from_le_bytes(*bytes)));
                if !rows.numbers[before..].iter().all(|number| number.is_finite()) {
                    return Err("a number is not finite");
                }
            }
            Architecture::TextClassifier { context, .. } => {
                rows.texts.push(self.text(content, index(context))?);
            }
            _ => rows.pixels.extend_from_slice(content),
        }
        rows.labels.push(i64::from(label));
        Ok(())
    }

    /// Tokens of a text that is its length and its bytes.
    fn text(&self, content: &[u8], context: usize) -> Result<Vec<i64>, &'static str> {
        let (length, bytes) = content.split_first_chunk::<2>().ok_or("it is too short")?;
        let length = usize::from(u16::from_le_bytes(*length));
        let text = bytes.get(..length).ok_or("its text is longer than it")?;
        let mut tokens: Vec<i64> = match self.tokenizer {
            None => text.iter().map(|byte| i64::from(*byte)).collect(),
            Some(tokenizer) => tokenizer
                .tokens(&String::from_utf8_lossy(text))
                .map_err(|_| "its text cannot be tokenised")?
                .into_iter()
                .map(|(token, _)| i64::from(token))
                .collect(),
        };
        tokens.truncate(context);
        if tokens.is_empty() {
            tokens.push(0);
        }
        Ok(tokens)
    }

    fn finish(&self, rows: Rows, count: usize) -> Examples {
        let mut lengths = None;
        let input = match self.architecture {
            Architecture::Mlp { .. } => Input::Numbers(rows.numbers),
            Architecture::TextClassifier { .. } => {
                let longest = rows.texts.iter().map(Vec::len).max().unwrap_or(1);
                let length = |text: &Vec<i64>| i64::try_from(text.len()).unwrap_or(i64::MAX);
                lengths = Some(rows.texts.iter().map(length).collect());
                let padded = rows.texts.into_iter().flat_map(|mut text| {
                    text.resize(longest, 0);
                    text
                });
                Input::Tokens(padded.collect())
            }
            _ => Input::Pixels(rows.pixels),
        };
        let units = u64::try_from(count).unwrap_or(u64::MAX);
        Examples { rows: count, input, target: rows.labels, lengths, units }
    }
}

/// What is read so far.
#[derive(Default)]
struct Rows {
    numbers: Vec<f32>,
    pixels: Vec<u8>,
    texts: Vec<Vec<i64>>,
    labels: Vec<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(architecture: Architecture) -> ModelSpec {
        ModelSpec { architecture, ..crate::tensors::tests::spec(1, 16, 1, 16) }
    }

    fn row(values: &[f32], label: u16) -> Vec<u8> {
        let values = values.iter().flat_map(|value| value.to_le_bytes());
        values.chain(label.to_le_bytes()).collect()
    }

    #[test]
    fn each_record_once_per_pass() {
        let mlp = spec(Architecture::Mlp { inputs: 1, hidden: 1, layers: 1, classes: 3 });
        let shard = |range: std::ops::Range<u8>| {
            range.flat_map(|i| row(&[f32::from(i)], u16::from(i % 3))).collect::<Vec<u8>>()
        };
        let shards = Shards::in_memory(vec![shard(0..4), vec![], shard(4..10)]);
        let records = Records::new(&mlp, shards, None, 1).expect("records");
        let mut passes = Vec::new();
        for pass in 0..3 {
            let mut seen = Vec::new();
            for step in 0..5 {
                let examples = records.step(pass * 5 + step, 2).expect("read");
                let Input::Numbers(numbers) = examples.input else { panic!("numbers") };
                for (number, label) in numbers.into_iter().zip(examples.target) {
                    assert_eq!(label, number as i64 % 3);
                    seen.push(number as i64);
                }
            }
            let mut sorted = seen.clone();
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..10));
            passes.push(seen);
        }
        assert_ne!(passes[0], passes[1]);
    }

    #[test]
    fn texts_are_cut_and_padded() {
        let text = spec(Architecture::TextClassifier {
            layers: 1,
            width: 16,
            heads: 1,
            context: 16,
            vocabulary: 256,
            classes: 2,
        });
        let record = |words: &[u8], label: u8| {
            let mut bytes = vec![u8::try_from(words.len()).expect("short"), 0];
            bytes.extend_from_slice(words);
            bytes.resize(18, 0);
            bytes.extend_from_slice(&[label, 0]);
            bytes
        };
        let all = [record(b"abc", 1), record(b"", 0), record(b"defgh", 1)].concat();
        let records = Records::new(&text, Shards::in_memory(vec![all]), None, 1).expect("records");
        let examples = records.read(&[0, 1, 2]).expect("read");
        assert_eq!(examples.lengths, Some(vec![3, 1, 5]));
        assert_eq!(examples.target, [1, 0, 1]);
        let Input::Tokens(tokens) = examples.input else { panic!("tokens") };
        assert_eq!(tokens[..10], [97, 98, 99, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn hostile_records_are_errors() {
        let mlp = spec(Architecture::Mlp { inputs: 1, hidden: 1, layers: 1, classes: 3 });
        let refuse = |shards: Vec<Vec<u8>>| {
            let records = Records::new(&mlp, Shards::in_memory(shards), None, 1)?;
            records.step(0, 1)
        };
        for shards in [
            vec![],
            vec![vec![]],
            vec![vec![0; 7]],
            vec![row(&[f32::NAN], 0)],
            vec![row(&[1.0], 3)],
        ] {
            assert!(matches!(refuse(shards), Err(JobError::Data(_))));
        }
        assert!(refuse(vec![row(&[1.0], 2)]).is_ok());
    }
}
