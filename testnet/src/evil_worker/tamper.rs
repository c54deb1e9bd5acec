//! What the evil worker changes, as a function of the frames seen so far.
//!
//! In the poisoned round the training texts are replaced by copies with every byte `b` as
//! `255 - b`, learned twice as fast and without error feedback: the delta is well-formed and
//! teaches the opposite. Asked for its states it runs the same steps again, so that what it shows is
//! what it committed to. From there to the next training
//! for a round every evaluation makes all variants look a tenth worse than the untouched head.

use protocol::codec;
use protocol::worker::{FileName, InnerRun, TrainJob, WorkerOutcome, WorkerReply, WorkerRequest};

/// Factor on the untouched head's losses that deltas are said to lead to, in percent.
const LIE_PERCENT: u64 = 110;

/// A poisoned copy to be made of a file in the job directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inversion {
    /// The text.
    pub from: FileName,
    /// The copy.
    pub to: FileName,
}

/// Counts rounds and changes frames. Frames that it cannot read pass as they are.
#[derive(Clone, Debug)]
pub struct Tamper {
    poison_round: u32,
    /// Seeds of the trainings for a round, in order: a training that is repeated has its seed
    /// again, so their number is the round's.
    seeds: Vec<u64>,
    round: usize,
}

impl Tamper {
    /// `poison_round` counts rounds trained for from 1; `seeds` are those that an earlier process
    /// of the same worker saw.
    pub fn new(poison_round: u32, seeds: Vec<u64>) -> Self {
        Self { poison_round, round: seeds.len(), seeds }
    }

    /// The seeds seen so far.
    pub fn seeds(&self) -> &[u64] {
        &self.seeds
    }

    fn is_poisoned(&self) -> bool {
        u32::try_from(self.round).is_ok_and(|round| round == self.poison_round)
    }

    /// Whether this is what was trained, or a slice of it, in the poisoned round.
    fn is_poisoned_run(&self, run: &InnerRun) -> bool {
        let round = usize::try_from(self.poison_round).unwrap_or(usize::MAX);
        round.checked_sub(1).and_then(|index| self.seeds.get(index)) == Some(&run.seed)
    }

    /// A frame on its way to the worker, and copies to make before it is passed on.
    pub fn request(&mut self, frame: Vec<u8>) -> (Vec<u8>, Vec<Inversion>) {
        match codec::decode(&frame) {
            Ok(WorkerRequest::Train(job)) => self.train(frame, job),
            Ok(WorkerRequest::Replay(mut job)) if self.is_poisoned_run(&job.run) => {
                let inversions = poison(&mut job.run);
                (codec::encode(&WorkerRequest::Replay(job)), inversions)
            }
            Ok(WorkerRequest::Compress(mut job)) if self.is_poisoned() => {
                // What honest rounds left in the error feedback would soften the poison.
                job.feedback = None;
                (codec::encode(&WorkerRequest::Compress(job)), Vec::new())
            }
            _ => (frame, Vec::new()),
        }
    }

    fn train(&mut self, frame: Vec<u8>, mut job: TrainJob) -> (Vec<u8>, Vec<Inversion>) {
        let run = &mut job.run;
        let known = self.seeds.iter().position(|seed| *seed == run.seed);
        self.round = known.map_or(self.seeds.len() + 1, |index| index + 1);
        if known.is_none() {
            self.seeds.push(run.seed);
        }
        if !self.is_poisoned() {
            return (frame, Vec::new());
        }
        let inversions = poison(run);
        (codec::encode(&WorkerRequest::Train(job)), inversions)
    }

    /// A frame on its way to the daemon.
    pub fn reply(&self, frame: Vec<u8>) -> Vec<u8> {
        if !self.is_poisoned() {
            return frame;
        }
        let Ok(WorkerReply::Done(WorkerOutcome::Evaluated { mut losses, faults })) =
            codec::decode(&frame)
        else {
            return frame;
        };
        let Some((Some(base), variants)) = losses.split_first_mut() else { return frame };
        for row in variants.iter_mut().flatten() {
            *row = base.iter().map(|loss| loss.saturating_mul(LIE_PERCENT) / 100).collect();
        }
        codec::encode(&WorkerReply::Done(WorkerOutcome::Evaluated { losses, faults }))
    }
}

/// Lets a run train on copies of its texts, twice as fast; says which copies are to be made.
fn poison(run: &mut InnerRun) -> Vec<Inversion> {
    run.parameters.learning_rate_ppm = run.parameters.learning_rate_ppm.saturating_mul(2);
    let mut inversions = Vec::new();
    for (index, text) in run.shards.iter_mut().enumerate() {
        let to = FileName::new(format!("inverted-{index}")).expect("a plain name");
        let from = std::mem::replace(text, to.clone());
        inversions.push(Inversion { from, to });
    }
    inversions
}

/// Every byte `b` as `255 - b`.
pub fn invert_bytes(text: &mut [u8]) {
    for byte in text {
        *byte = u8::MAX - *byte;
    }
}

#[cfg(test)]
mod tests {
    use protocol::model::{Architecture, ModelSpec, RoundParameters};
    use protocol::worker::{CompressJob, DeltaOutputs, ModelFiles, ReplayJob};

    use super::*;

    fn name(name: &str) -> FileName {
        FileName::new(name).expect("plain")
    }

    fn spec() -> ModelSpec {
        ModelSpec {
            name: "m".into(),
            architecture: Architecture::BytesGpt { layers: 1, width: 16, heads: 1, context: 16 },
            tokenizer: None,
            adapter: None,
            seed: 1,
            imported: false,
            initial_checkpoint: Default::default(),
            evaluation_suite: Default::default(),
            evaluation_suite_bytes: 1_000,
            licence: "MIT".into(),
        }
    }

    fn train(seed: u64) -> Vec<u8> {
        codec::encode(&WorkerRequest::Train(TrainJob {
            run: InnerRun {
                spec: spec(),
                files: ModelFiles::default(),
                parameters: RoundParameters::default(),
                steps: 30,
                steps_before: 0,
                seed,
                shards: vec![name("x.txt"), name("y.txt")],
            },
            checkpoint: name("c"),
            checkpoint_out: name("t"),
            resume: None,
            states: None,
        }))
    }

    fn compress() -> Vec<u8> {
        codec::encode(&WorkerRequest::Compress(CompressJob {
            spec: spec(),
            parameters: RoundParameters::default(),
            round: 1,
            seed: 1,
            checkpoint: name("c"),
            trained: name("t"),
            feedback: Some(name("e")),
            privacy: None,
            outputs: DeltaOutputs {
                payload: name("p"),
                feedback_accepted: name("a"),
                feedback_rejected: name("r"),
            },
        }))
    }

    fn evaluated(losses: Vec<Option<Vec<u64>>>) -> Vec<u8> {
        let faults = vec![None];
        codec::encode(&WorkerReply::Done(WorkerOutcome::Evaluated { losses, faults }))
    }

    #[test]
    fn only_the_poisoned_round_trains_on_inverted_texts() {
        let mut tamper = Tamper::new(2, Vec::new());
        for (seed, poisoned) in [(7, false), (7, false), (9, true), (9, true), (10, false)] {
            let frame = train(seed);
            // Another process goes on where the one before it ended.
            tamper = Tamper::new(2, tamper.seeds().to_vec());
            let (passed, inversions) = tamper.request(frame.clone());
            assert_eq!(passed != frame, poisoned);
            assert_eq!(inversions.len(), if poisoned { 2 } else { 0 });
            if poisoned {
                let Ok(WorkerRequest::Train(job)) = codec::decode(&passed) else { panic!("train") };
                assert_eq!(job.run.shards, [name("inverted-0"), name("inverted-1")]);
                assert_eq!(inversions[1].from, name("y.txt"));
                assert_eq!(inversions[1].to, name("inverted-1"));
            }
            let (passed, _) = tamper.request(compress());
            let Ok(WorkerRequest::Compress(job)) = codec::decode(&passed) else {
                panic!("compress")
            };
            assert_eq!(job.feedback.is_none(), poisoned);
        }
    }

    #[test]
    fn its_own_poisoned_run_is_replayed_as_it_was() {
        let mut tamper = Tamper::new(2, vec![7, 9, 10]);
        for (seed, poisoned) in [(7, false), (9, true), (10, false), (11, false)] {
            let Ok(WorkerRequest::Train(job)) = codec::decode(&train(seed)) else {
                panic!("train")
            };
            let state = name("state-from");
            let replay = ReplayJob { run: job.run, state, from: 3, steps: 2, state_out: None };
            let frame = codec::encode(&WorkerRequest::Replay(replay));
            let (passed, inversions) = tamper.request(frame.clone());
            assert_eq!((passed != frame, inversions.len() == 2), (poisoned, poisoned), "{seed}");
        }
    }

    #[test]
    fn reviews_lie_only_while_the_round_is_poisoned() {
        let mut tamper = Tamper::new(2, Vec::new());
        let honest = evaluated(vec![Some(vec![100, 200]), Some(vec![90, 180]), None]);
        let lie = evaluated(vec![Some(vec![100, 200]), Some(vec![110, 220]), None]);
        for (seed, expect) in [&honest, &honest, &lie, &honest].into_iter().enumerate() {
            assert_eq!(&tamper.reply(honest.clone()), expect);
            tamper.request(train(seed as u64));
        }
    }

    #[test]
    fn everything_else_passes_unchanged() {
        let mut tamper = Tamper::new(1, Vec::new());
        tamper.request(train(1));
        for frame in [
            codec::encode(&WorkerRequest::Describe),
            b"not a frame of ours".to_vec(),
            Vec::new(),
            evaluated(vec![Some(vec![5])]),
            evaluated(vec![None, Some(vec![5])]),
            evaluated(Vec::new()),
        ] {
            assert_eq!(tamper.reply(frame.clone()), frame);
            assert_eq!(tamper.request(frame.clone()), (frame, Vec::new()));
        }
    }

    #[test]
    fn inversion_undoes_itself() {
        let mut text = vec![0, 1, 32, 254, 255];
        invert_bytes(&mut text);
        assert_eq!(text, [255, 254, 223, 1, 0]);
        invert_bytes(&mut text);
        assert_eq!(text, [0, 1, 32, 254, 255]);
    }
}
