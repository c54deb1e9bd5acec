//! The worker of a member of `attack --network`: a relay that plays the scene a model names.
//!
//! A hostile member trains honestly, so that its states are what a replay gives, and sends another
//! delta: before compressing, the trained weights are replaced. Where the attack needs other data,
//! the relay has the real worker train once more, on poisoned copies of the shards. As a reviewer
//! it reports the mirror image of every loss. Where a scene's defence is off, every member's relay
//! takes it away. In front of an honest worker, and in every other model, it changes nothing.
//!
//! Deliberately absent: knowledge of other members' deltas. Commitments hide them until all are
//! made.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use protocol::codec;
use protocol::ids::ContentHash;
use protocol::model::{ModelSpec, OuterState};
use protocol::worker::{
    CompressJob, FileName, MergeJob, SubmittedDelta, TrainJob, WorkerOutcome, WorkerReply,
    WorkerRequest,
};
use tokio::io::{Stdin, Stdout};
use tokio::process::{ChildStdin, ChildStdout};

use super::End;
use super::poison;
use crate::attack::network::scene::{Attack, Defence, Scene};
use crate::frames;

/// Factor of the scaled delta.
const SCALE: f64 = 100.0;
/// Factor of the small opposite one.
const LITTLE: f64 = -0.1;
/// Factor of the backdoor: members over hostile members, so that an unclipped mean becomes the
/// poisoned model. The clip takes off what is above the median norm, and no less would do more.
const REPLACEMENT: f64 = 3.5;

/// On whose side a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Attacks.
    Hostile,
    /// Only lacks the defences that a scene takes away.
    Honest,
}

/// Makes poison of a shard.
type Poison = fn(&mut [u8]) -> Result<()>;

/// What comes in the place of a member's delta.
#[derive(Clone, Copy)]
struct Delta {
    /// Multiple of what training changed.
    factor: f64,
    /// How its shards are poisoned, if it is trained on others.
    poison: Option<Poison>,
}

/// The delta of an attack.
fn delta(attack: Attack) -> Option<Delta> {
    let (factor, poison): (f64, Option<Poison>) = match attack {
        Attack::None => return None,
        Attack::SignFlip => (-1.0, None),
        Attack::Scaled => (SCALE, None),
        Attack::Little => (LITTLE, None),
        Attack::LabelFlip => (1.0, Some(poison::flip_labels)),
        Attack::Backdoor => (REPLACEMENT, Some(poison::plant_backdoor)),
    };
    Some(Delta { factor, poison })
}

/// What a member says that it measured.
fn reported(role: Role, scene: Scene, mut losses: Vec<Option<Vec<u64>>>) -> Vec<Option<Vec<u64>>> {
    let Some((Some(base), variants)) = losses.split_first_mut() else { return losses };
    for row in variants.iter_mut().flatten() {
        if scene.defence != Defence::On {
            row.clone_from(base);
        } else if role == Role::Hostile && scene.attack != Attack::None {
            for (loss, base) in row.iter_mut().zip(base.iter()) {
                *loss = base.saturating_mul(2).saturating_sub(*loss);
            }
        }
    }
    losses
}

/// A relay in the middle of its work.
pub(super) struct Play<'a> {
    pub(super) role: Role,
    /// The job directory.
    pub(super) folder: &'a Path,
    /// Where poisoned weights wait for their round's compression: its name, the model's appended.
    pub(super) memory: &'a Path,
    pub(super) to_child: ChildStdin,
    pub(super) from_child: ChildStdout,
    pub(super) from_daemon: Stdin,
    pub(super) to_daemon: Stdout,
}

/// How a job ended: with its last frame, or because one side is gone.
type Reply = Result<Vec<u8>, End>;

impl Play<'_> {
    /// Relays until one side closes. Jobs come one at a time.
    pub(super) async fn run(mut self) -> Result<End> {
        while let Some(frame) = frames::read(&mut self.from_daemon).await? {
            let reply = match codec::decode(&frame) {
                Ok(WorkerRequest::Train(job)) => self.train(&frame, job).await?,
                Ok(WorkerRequest::Compress(job)) => self.compress(frame, job).await?,
                Ok(WorkerRequest::Merge(job)) => self.merge(&frame, job).await?,
                Ok(WorkerRequest::Evaluate(job)) => {
                    let reply = self.pass(&frame).await?;
                    reply.map(|reply| self.evaluated(&job.spec, reply))
                }
                _ => self.pass(&frame).await?,
            };
            let reply = match reply {
                Ok(reply) => reply,
                Err(end) => return Ok(end),
            };
            if frames::write(&mut self.to_daemon, &reply).await.is_err() {
                break;
            }
        }
        Ok(End::Daemon)
    }

    /// The scene of a model, and the delta that this member sends in it.
    fn delta(&self, spec: &ModelSpec) -> Option<Delta> {
        delta(Scene::of(&spec.name)?.attack).filter(|_| self.role == Role::Hostile)
    }

    /// Has the child do a job. Its progress goes to the daemon; the last frame comes back.
    async fn pass(&mut self, request: &[u8]) -> Result<Reply> {
        if frames::write(&mut self.to_child, request).await.is_err() {
            return Ok(Err(End::Child));
        }
        while let Some(frame) = frames::read(&mut self.from_child).await? {
            if !matches!(codec::decode(&frame), Ok(WorkerReply::Progress(_))) {
                return Ok(Ok(frame));
            }
            if frames::write(&mut self.to_daemon, &frame).await.is_err() {
                return Ok(Err(End::Daemon));
            }
        }
        Ok(Err(End::Child))
    }

    /// Trains, and if the attack needs it once more on other data, for later.
    async fn train(&mut self, frame: &[u8], mut job: TrainJob) -> Result<Reply> {
        let honest = match self.pass(frame).await? {
            Ok(honest) => honest,
            end => return Ok(end),
        };
        let trained =
            matches!(codec::decode(&honest), Ok(WorkerReply::Done(WorkerOutcome::Trained(_))));
        let poison = self.delta(&job.run.spec).and_then(|delta| delta.poison);
        let Some(poison) = poison.filter(|_| trained) else { return Ok(Ok(honest)) };
        for (number, shard) in job.run.shards.iter_mut().enumerate() {
            let mut bytes = self.read(shard)?;
            poison(&mut bytes)?;
            *shard = FileName::new(format!("poisoned-{number}"))?;
            self.write(shard, &bytes)?;
        }
        let out = FileName::new("poisoned.safetensors")?;
        let spec = job.run.spec.clone();
        let job = TrainJob { checkpoint_out: out.clone(), resume: None, states: None, ..job };
        if let Err(end) = self.pass(&codec::encode(&WorkerRequest::Train(job))).await? {
            return Ok(Err(end));
        }
        let memory = self.memory_of(&spec);
        fs::write(&memory, self.read(&out)?)
            .with_context(|| format!("{} cannot be written", memory.display()))?;
        Ok(Ok(honest))
    }

    /// Compresses what the attack sends.
    async fn compress(&mut self, frame: Vec<u8>, mut job: CompressJob) -> Result<Reply> {
        let Some(delta) = self.delta(&job.spec) else { return self.pass(&frame).await };
        let head = self.read(&job.checkpoint)?;
        let trained = match delta.poison {
            None => self.read(&job.trained)?,
            Some(_) => {
                let memory = self.memory_of(&job.spec);
                fs::read(&memory).with_context(|| format!("{} cannot be read", memory.display()))?
            }
        };
        job.trained = FileName::new("crafted.safetensors")?;
        self.write(&job.trained, &poison::combine(&head, &[(delta.factor, trained)])?)?;
        // What honest rounds left in it would soften the attack.
        job.feedback = None;
        self.pass(&codec::encode(&WorkerRequest::Compress(job))).await
    }

    /// What this member says of other deltas.
    fn evaluated(&self, spec: &ModelSpec, frame: Vec<u8>) -> Vec<u8> {
        let reply = codec::decode(&frame);
        match (Scene::of(&spec.name), reply) {
            (Some(scene), Ok(WorkerReply::Done(WorkerOutcome::Evaluated { losses, faults }))) => {
                let losses = reported(self.role, scene, losses);
                codec::encode(&WorkerReply::Done(WorkerOutcome::Evaluated { losses, faults }))
            }
            _ => frame,
        }
    }

    /// Merges; without the clip where the scene has none. A delta that is merged alone is clipped
    /// to its own norm, so the mean of heads that each merged one is the unclipped mean.
    async fn merge(&mut self, frame: &[u8], job: MergeJob) -> Result<Reply> {
        let defence = Scene::of(&job.spec.name).map(|scene| scene.defence);
        if defence != Some(Defence::Off) {
            return self.pass(frame).await;
        }
        let mut parts = Vec::new();
        for delta in &job.submitted {
            let factor = f64::from(delta.weight_ppm) / 1e6 / f64::from(job.divisor.max(1));
            let alone = SubmittedDelta { weight_ppm: 1_000_000, ..delta.clone() };
            let one = MergeJob { submitted: vec![alone], divisor: 1, ..job.clone() };
            let reply = match self.pass(&codec::encode(&WorkerRequest::Merge(one))).await? {
                Ok(reply) => reply,
                end => return Ok(end),
            };
            let merged = codec::decode(&reply);
            if !matches!(merged, Ok(WorkerReply::Done(WorkerOutcome::Merged { .. }))) {
                return Ok(Ok(reply));
            }
            parts.push((factor, self.read(&job.checkpoint_out)?));
        }
        let checkpoint = poison::combine(&self.read(&job.checkpoint)?, &parts)?;
        let state = codec::encode(&OuterState::default());
        self.write(&job.checkpoint_out, &checkpoint)?;
        self.write(&job.outer_out.state, &state)?;
        let merged = WorkerOutcome::Merged {
            checkpoint: ContentHash::of(&checkpoint),
            outer_state: ContentHash::of(&state),
            momentum: None,
            aggregate: None,
        };
        Ok(Ok(codec::encode(&WorkerReply::Done(merged))))
    }

    fn memory_of(&self, spec: &ModelSpec) -> PathBuf {
        let mut name = self.memory.as_os_str().to_owned();
        name.push(".");
        name.push(&spec.name);
        name.into()
    }

    fn read(&self, name: &FileName) -> Result<Vec<u8>> {
        let path = self.folder.join(name.as_str());
        fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))
    }

    fn write(&self, name: &FileName, bytes: &[u8]) -> Result<()> {
        let path = self.folder.join(name.as_str());
        fs::write(&path, bytes).with_context(|| format!("{} cannot be written", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene(attack: Attack, defence: Defence) -> Scene {
        Scene { attack, defence }
    }

    #[test]
    fn reviews_are_honest_unless_the_scene_says_otherwise() {
        let honest = vec![Some(vec![100, 200]), Some(vec![90, 500]), None];
        let say = |role, attack, defence| reported(role, scene(attack, defence), honest.clone());
        let unchanged = [
            (Role::Honest, Attack::SignFlip),
            (Role::Honest, Attack::None),
            (Role::Hostile, Attack::None),
        ];
        for (role, attack) in unchanged {
            assert_eq!(say(role, attack, Defence::On), honest, "{role:?} {attack:?}");
        }
        let mirrored = vec![Some(vec![100, 200]), Some(vec![110, 0]), None];
        assert_eq!(say(Role::Hostile, Attack::Scaled, Defence::On), mirrored);
        let blind = vec![Some(vec![100, 200]), Some(vec![100, 200]), None];
        for role in [Role::Hostile, Role::Honest] {
            for defence in [Defence::Off, Defence::Clip] {
                assert_eq!(say(role, Attack::None, defence), blind);
            }
        }
        let hostile = scene(Attack::Scaled, Defence::On);
        for strange in [vec![], vec![None, Some(vec![5])]] {
            assert_eq!(reported(Role::Hostile, hostile, strange.clone()), strange);
        }
    }

    #[test]
    fn every_attack_sends_something_else() {
        for attack in Attack::ALL {
            let sent = delta(attack);
            assert_eq!(sent.is_none(), attack == Attack::None);
            let trains = matches!(attack, Attack::LabelFlip | Attack::Backdoor);
            assert_eq!(sent.is_some_and(|delta| delta.poison.is_some()), trains);
            assert!(sent.is_none_or(|delta| trains || delta.factor != 1.0));
        }
    }
}
