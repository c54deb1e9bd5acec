//! Members that train on their own and merge their deltas once a round.

use protocol::worker::{
    CompressJob, DeltaOutputs, FileName, InnerRun, MergeJob, ModelFiles, OuterFiles, OuterOutputs,
    SubmittedDelta, TrainJob, WorkerOutcome, WorkerRequest,
};

use super::site::{Site, name, text_name, unexpected};
use super::{Options, Point};
use crate::figures::CommandError;
use crate::lab::faults::Fate;

/// Every member weighs the same.
const WEIGHT_PPM: u32 = 1_000_000;

/// The members between two rounds.
struct Members<'a> {
    site: &'a mut Site,
    options: &'a Options,
    /// The error feedback with which each member goes into the next round.
    feedback: Vec<Option<FileName>>,
    /// The head's outer state.
    outer: OuterFiles,
    now: Point,
    payloads: (u64, u64),
}

/// Runs all rounds: the curve, and the mean length of a payload.
pub(super) fn run(site: &mut Site, options: &Options) -> Result<(Vec<Point>, f64), CommandError> {
    let loss = site.loss(&name("head-0")?)?;
    let mut members = Members {
        site,
        options,
        feedback: (0..options.workers).map(|_| None).collect(),
        outer: OuterFiles { state: name("state-0")?, momentum: None, aggregate: None },
        now: Point { loss, ..Point::default() },
        payloads: (0, 0),
    };
    let mut curve = vec![members.now];
    for round in 0..options.rounds {
        members.round(round)?;
        let now = &members.now;
        eprintln!("round {}: {:.4} nats, {:.0} bytes sent", round + 1, now.loss, now.sent_bytes);
        curve.push(members.now);
    }
    let (count, bytes) = members.payloads;
    Ok((curve, bytes as f64 / count.max(1) as f64))
}

impl Members<'_> {
    fn round(&mut self, round: u32) -> Result<(), CommandError> {
        let options = self.options;
        let member_bytes =
            u64::from(options.batch) * u64::from(options.shape.context) * u64::from(options.steps);
        let mut submitted = Vec::new();
        let mut sent = 0;
        for member in 0..options.workers {
            match options.faults.fate(options.seed, round, member, options.workers) {
                Fate::Dies { part_ppm } => {
                    // What it computed is lost, so it need not be computed here. It comes back
                    // for the next round, without feedback: it missed a round (design 7.2).
                    let died = member_bytes * u64::from(part_ppm) / 1_000_000;
                    self.now.computed += died;
                    self.now.died += died;
                    self.feedback[index(member)] = None;
                }
                Fate::Dropped => {
                    self.now.computed += member_bytes;
                    self.now.dropped += member_bytes;
                    let outputs = self.train(round, member)?;
                    self.feedback[index(member)] = Some(outputs.feedback_rejected);
                }
                Fate::Merged => {
                    self.now.computed += member_bytes;
                    let outputs = self.train(round, member)?;
                    let bytes = self.site.bytes_of(&outputs.payload)?;
                    sent += bytes * u64::from(options.workers - 1);
                    self.payloads = (self.payloads.0 + 1, self.payloads.1 + bytes);
                    self.feedback[index(member)] = Some(outputs.feedback_accepted);
                    submitted.push(SubmittedDelta {
                        payload: outputs.payload,
                        weight_ppm: WEIGHT_PPM,
                        seed: seed(options.seed, round, member),
                        round,
                    });
                }
            }
        }
        self.now.sent_bytes += sent as f64 / f64::from(options.workers);
        let merged = u64::try_from(submitted.len()).unwrap_or(u64::MAX);
        self.merge(round, submitted)?;
        self.now.integrated += merged * member_bytes;
        self.now.loss = self.site.loss(&head(round + 1)?)?;
        Ok(())
    }

    fn train(&mut self, round: u32, member: u32) -> Result<DeltaOutputs, CommandError> {
        let feedback = self.feedback[index(member)].take();
        train(self.site, self.options, round, member, feedback)
    }

    fn merge(&mut self, round: u32, submitted: Vec<SubmittedDelta>) -> Result<(), CommandError> {
        let next = head(round + 1)?;
        if submitted.is_empty() {
            // Nothing came: the head stays.
            return self.site.write(&next, &self.site.read(&head(round)?)?);
        }
        let divisor = u32::try_from(submitted.len()).unwrap_or(u32::MAX);
        let file = |what: &str| name(&format!("{what}-{}", round + 1));
        let outer_out = OuterOutputs {
            state: file("state")?,
            momentum: file("momentum")?,
            aggregate: file("aggregate")?,
        };
        let outcome = self.site.job(WorkerRequest::Merge(MergeJob {
            spec: self.site.spec.clone(),
            parameters: self.site.parameters.clone(),
            checkpoint: head(round)?,
            outer: self.outer.clone(),
            submitted,
            divisor,
            checkpoint_out: next,
            outer_out: outer_out.clone(),
        }))?;
        let WorkerOutcome::Merged { momentum, aggregate, .. } = outcome else {
            return Err(unexpected("merging"));
        };
        self.outer = OuterFiles {
            state: outer_out.state,
            momentum: momentum.map(|_| outer_out.momentum),
            aggregate: aggregate.map(|_| outer_out.aggregate),
        };
        Ok(())
    }
}

/// Trains one member and compresses what it learned.
pub(super) fn train(
    site: &mut Site,
    options: &Options,
    round: u32,
    member: u32,
    feedback: Option<FileName>,
) -> Result<DeltaOutputs, CommandError> {
    let seed = seed(options.seed, round, member);
    let trained = name("trained")?;
    let run = InnerRun {
        spec: site.spec.clone(),
        files: ModelFiles::default(),
        parameters: site.parameters.clone(),
        steps: options.steps,
        steps_before: u64::from(round) * u64::from(options.steps),
        seed,
        shards: vec![text_name(member)?],
    };
    site.job(WorkerRequest::Train(TrainJob {
        run,
        checkpoint: head(round)?,
        checkpoint_out: trained.clone(),
        resume: None,
        states: None,
    }))?;
    // The feedback that goes in is still read when that which comes out is written.
    let file = |what: &str| name(&format!("{what}-{member}-{}", round % 2));
    let outputs = DeltaOutputs {
        payload: file("delta")?,
        feedback_accepted: file("accepted")?,
        feedback_rejected: file("rejected")?,
    };
    site.job(WorkerRequest::Compress(CompressJob {
        spec: site.spec.clone(),
        parameters: site.parameters.clone(),
        round,
        seed,
        checkpoint: head(round)?,
        trained,
        feedback,
        privacy: None,
        outputs: outputs.clone(),
    }))?;
    Ok(outputs)
}

fn head(round: u32) -> Result<FileName, CommandError> {
    name(&format!("head-{round}"))
}

fn index(member: u32) -> usize {
    crate::tensors::index(member)
}

/// A seed of its own for every member in every round of every cell.
fn seed(cell: u64, round: u32, member: u32) -> u64 {
    cell << 40 | u64::from(round) << 16 | u64::from(member)
}
