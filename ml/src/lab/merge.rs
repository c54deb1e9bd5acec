//! `ayni-worker lab merge`: what merging costs beside one pass over memory.
//!
//! Twenty deltas of a model of GPT-2's shape (124 million parameters) are decoded, clipped and
//! averaged into it. The measure is one pass: reading the parent and writing the next weights
//! into fresh memory, on as many threads, in the same process, in turn with the merge.

use std::time::{Duration, Instant};

use clap::Args;
use protocol::ids::ContentHash;
use protocol::model::{Architecture, ModelSpec, OuterState, RoundParameters};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use serde_json::json;

use crate::arithmetic::narrow;
use crate::checkpoint::{Checkpoint, Tensor};
use crate::delta::{CHUNK, Delta, Plan, decode, encode};
use crate::figures::{CommandError, Figures};
use crate::merge::blocks::spread;
use crate::merge::{Inputs, Merger};
use crate::tensors::{TensorSpec, tensor_specs};

/// A merge may take so many passes over memory.
const PASSES_MAX: f64 = 3.0;
/// What a merge may need beside parent, next weights and decoded deltas: blocks of its threads.
const EXTRA_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Full weight.
const FULL_PPM: u32 = 1_000_000;

/// How much to merge.
#[derive(Debug, Args)]
pub struct Options {
    /// Deltas
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=100))]
    deltas: u8,
    /// Blocks of the transformer; 12 are GPT-2's, 124 million parameters
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=48))]
    layers: u32,
    /// Values kept of every 4,096
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    keep: u32,
    /// Measurements, of which the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    repeat: u8,
}

/// Times and memory on one number of threads.
struct Row {
    threads: usize,
    pass: f64,
    decode: f64,
    merge: f64,
    /// Bytes beside parent, next weights, payloads and decoded deltas, at most; none where the
    /// system does not tell.
    extra_bytes: Option<u64>,
}

impl Row {
    fn ratio(&self) -> f64 {
        (self.decode + self.merge) / self.pass
    }
}

/// Measures.
pub fn run(options: &Options) -> Result<Figures, CommandError> {
    let specs = tensor_specs(&spec(options.layers));
    let parameters = RoundParameters { keep_per_chunk: options.keep, ..RoundParameters::default() };
    let plan = Plan::new(&specs, &parameters, 0, 0);
    let numbers: Vec<u8> = (1..=options.deltas).collect();
    eprintln!("making {} deltas of {} values", numbers.len(), total(&specs));
    let payloads = spread(
        numbers,
        2,
        |_| 1,
        |number| {
            let delta = Delta::compress(&noise(&specs, number, 1e-4), &plan);
            encode(&delta.expect("noise is finite"), &plan)
        },
    );
    let head = noise(&specs, 0, 1e-2);
    let bench = Bench { head: &head, plan: &plan, payloads: &payloads, parameters: &parameters };
    let mut rows = Vec::new();
    let mut hashes = Vec::new();
    for threads in [1, 2] {
        eprintln!("merging on {threads} thread(s)");
        rows.push(bench.measure(threads, options.repeat));
        hashes.push(bench.merge(&bench.decode(threads), threads).hash());
    }
    Ok(figures(&bench, &rows, &hashes))
}

fn figures(bench: &Bench<'_>, rows: &[Row], hashes: &[ContentHash]) -> Figures {
    let mut missed = Vec::new();
    let mut table = vec![
        ["THREADS", "PASS MS", "DECODE MS", "MERGE MS", "PASSES", "EXTRA MIB"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for row in rows {
        let ms = |seconds: f64| format!("{:.0}", seconds * 1e3);
        let extra = row.extra_bytes.map_or("unknown".into(), |bytes| (bytes >> 20).to_string());
        let ratio = format!("{:.2}", row.ratio());
        table.push(vec![
            row.threads.to_string(),
            ms(row.pass),
            ms(row.decode),
            ms(row.merge),
            ratio,
            extra,
        ]);
        if row.ratio() > PASSES_MAX {
            let (threads, ratio) = (row.threads, row.ratio());
            missed.push(format!("{ratio:.2} passes on {threads} thread(s), at most {PASSES_MAX}"));
        }
        if row.extra_bytes.is_some_and(|bytes| bytes > EXTRA_BYTES_MAX) {
            missed.push(format!("memory: more than {EXTRA_BYTES_MAX} bytes beside the weights"));
        }
    }
    let equal = hashes.windows(2).all(|pair| pair[0] == pair[1]);
    if !equal {
        missed.push("equal bytes on 1 and 2 threads".to_owned());
    }
    let payload_bytes: usize = bench.payloads.iter().map(Vec::len).sum();
    let values = bench.head.len();
    let mut text = Figures::align(&table);
    text.push_str(&format!(
        "\n{} deltas, {payload_bytes} bytes, into {values} parameters; {} on 1 and 2 threads\n",
        bench.payloads.len(),
        if equal { "equal bytes" } else { "UNEQUAL bytes" },
    ));
    let rows: Vec<serde_json::Value> = rows
        .iter()
        .map(|row| {
            json!({
                "threads": row.threads,
                "pass_s": row.pass,
                "decode_s": row.decode,
                "merge_s": row.merge,
                "extra_bytes": row.extra_bytes,
                "passes": row.ratio(),
            })
        })
        .collect();
    let json = json!({
        "deltas": bench.payloads.len(),
        "payload_bytes": payload_bytes,
        "parameters": values,
        "checkpoint": hashes.first().map(ToString::to_string),
        "rows": rows,
        "equal_bytes": equal,
    });
    Figures { table: text, json, missed }
}

struct Bench<'a> {
    head: &'a Checkpoint,
    plan: &'a Plan,
    payloads: &'a [Vec<u8>],
    parameters: &'a RoundParameters,
}

impl Bench<'_> {
    fn measure(&self, threads: usize, repeat: u8) -> Row {
        let mut times: [Vec<f64>; 3] = Default::default();
        let mut extra_bytes = None;
        for _ in 0..repeat {
            let (pass, copied) = timed(|| self.pass(threads));
            assert!(copied == *self.head, "the pass copies");
            drop(copied);
            let before = resident(true);
            let (decode, deltas) = timed(|| self.decode(threads));
            let (merge, next) = timed(|| self.merge(&deltas, threads));
            let peak = resident(false);
            let decoded: usize = deltas.iter().flatten().map(|delta| 2 * delta.len()).sum();
            let known = u64::try_from(decoded + 4 * next.len()).unwrap_or(u64::MAX);
            let extra = before
                .zip(peak)
                .map(|((now, _), (_, peak))| peak.saturating_sub(now).saturating_sub(known));
            extra_bytes = extra_bytes.max(extra);
            for (times, time) in times.iter_mut().zip([pass, decode, merge]) {
                times.push(time.as_secs_f64());
            }
        }
        let [pass, decode, merge] = times.map(median);
        Row { threads, pass, decode, merge, extra_bytes }
    }

    /// Reads the parent, writes the next weights.
    fn pass(&self, threads: usize) -> Checkpoint {
        let mut next: Vec<Vec<f32>> =
            self.head.tensors.iter().map(|tensor| vec![0.0; tensor.values.len()]).collect();
        let pieces: Vec<(&mut [f32], &[f32])> = next
            .iter_mut()
            .zip(&self.head.tensors)
            .flat_map(|(to, from)| to.chunks_mut(256 * CHUNK).zip(from.values.chunks(256 * CHUNK)))
            .collect();
        spread(pieces, threads, |(to, _)| to.len(), |(to, from)| to.copy_from_slice(from));
        let tensors = next.into_iter().zip(&self.head.tensors);
        let tensors = tensors.map(|(values, t)| Tensor { spec: t.spec.clone(), values });
        Checkpoint { tensors: tensors.collect() }
    }

    fn decode(&self, threads: usize) -> Vec<Option<Delta>> {
        let payloads: Vec<&Vec<u8>> = self.payloads.iter().collect();
        spread(payloads, threads, |_| 1, |payload| decode(payload, self.plan).ok())
    }

    fn merge(&self, deltas: &[Option<Delta>], threads: usize) -> Checkpoint {
        let divisor = u32::try_from(deltas.len()).expect("at most 100");
        let state = OuterState::default();
        let merger = Merger::new(Inputs {
            head: self.head,
            state: &state,
            momentum: None,
            aggregate: None,
            deltas,
            parameters: self.parameters,
            divisor,
            seed: [0; 32],
            threads,
        });
        let weights = vec![FULL_PPM; deltas.len()];
        merger.and_then(|merger| merger.merge(&weights)).expect("sound deltas merge")
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let started = Instant::now();
    let result = work();
    (started.elapsed(), result)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[(times.len() - 1) / 2]
}

/// Resident bytes now and at most, as Linux tells; `reset` starts the maximum anew.
fn resident(reset: bool) -> Option<(u64, u64)> {
    if reset {
        std::fs::write("/proc/self/clear_refs", "5").ok()?;
    }
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}

fn total(specs: &[TensorSpec]) -> usize {
    specs.iter().map(TensorSpec::len).sum()
}

/// Values of which a few are large, as those of an update.
fn noise(specs: &[TensorSpec], seed: u8, scale: f64) -> Checkpoint {
    let mut stream = ChaCha8Rng::from_seed([seed; 32]);
    let mut value = || {
        let x = f64::from(stream.next_u32()) / f64::from(u32::MAX) - 0.5;
        narrow(scale * x * x * x)
    };
    let tensors = specs
        .iter()
        .map(|spec| Tensor {
            spec: spec.clone(),
            values: (0..spec.len()).map(|_| value()).collect(),
        })
        .collect();
    Checkpoint { tensors }
}

fn spec(layers: u32) -> ModelSpec {
    ModelSpec {
        name: "lab".into(),
        architecture: Architecture::Gpt {
            layers,
            width: 768,
            heads: 12,
            context: 1024,
            vocabulary: 50_257,
            tied: true,
        },
        tokenizer: Some(ContentHash::default()),
        adapter: None,
        seed: 0,
        imported: false,
        initial_checkpoint: ContentHash::default(),
        evaluation_suite: ContentHash::default(),
        evaluation_suite_bytes: 1 << 20,
        licence: "none".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![3.0, 1.0]), 1.0);
    }
}
