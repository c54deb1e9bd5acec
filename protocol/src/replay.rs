//! Replaying a slice of somebody's training: which one, what the author has to show for it, and
//! what comes of it (design 7 and 10).
//!
//! Whether a delta is replayed, and which slice, is drawn after the deltas were revealed, from the
//! beacon that draws their panels, the same for every reviewer. A state is a blob that its leaf names, so only leaves and their places
//! have to be proven. Only public data can be replayed, and only what is exact between equal
//! fingerprints.

use serde::{Deserialize, Serialize};

use crate::amount::PPM;
use crate::codec::Canonical;
use crate::ids::{Beacon, ContentHash, ContributionId};
use crate::merkle::{self, DEPTH_MAX, MerkleProof};
use crate::model::{DataClass, DeltaManifest, Determinism};
use crate::review::Verdict;
use crate::training::Draw;

/// Steps of a slice. Two: what a step leaves in the optimizer is used by the next.
pub const REPLAY_STEPS_MAX: u32 = 2;

/// Some inner steps of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The first, counted from 0: the state before it is asked for.
    pub from: u32,
    /// How many.
    pub steps: u32,
}

impl Slice {
    /// The slice of a delta with so many steps; none if this delta is not to be replayed, of
    /// which the chance is 1 - `replay_ppm`.
    pub fn draw(
        review_beacon: &Beacon,
        contribution: &ContributionId,
        steps: u32,
        replay_ppm: u32,
    ) -> Option<Self> {
        let parts: &[&[u8]] = &[contribution.as_bytes()];
        let mut draw = Draw::new("ayni 2026 replayed slice v2", review_beacon, parts);
        if draw.below(PPM) >= u64::from(replay_ppm) {
            return None;
        }
        let from = u32::try_from(draw.below(u64::from(steps))).unwrap_or(0);
        Some(Self { from, steps: REPLAY_STEPS_MAX.min(steps.saturating_sub(from)) })
    }

    /// Index of the state after its last step.
    pub const fn end(&self) -> u32 {
        self.from.saturating_add(self.steps)
    }
}

/// What an author shows of its run: the states before and after a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownStates {
    /// Hash of the state before the slice: the blob to fetch.
    pub before: ContentHash,
    /// Shows its place.
    pub before_proof: MerkleProof,
    /// Hash of the state after the slice.
    pub after: ContentHash,
    /// Shows its place.
    pub after_proof: MerkleProof,
}

impl Canonical for ShownStates {
    const BYTES_MAX: usize = 2 * (32 + 32 * DEPTH_MAX + 9);
}

impl ShownStates {
    /// What to show of the states of a run, of which there is one more than steps.
    pub fn of(states: &[ContentHash], slice: Slice) -> Option<Self> {
        let at = |index| Some((*states.get(index)?, merkle::prove(states, index)?));
        let (before, before_proof) = at(usize::try_from(slice.from).ok()?)?;
        let (after, after_proof) = at(usize::try_from(slice.end()).ok()?)?;
        Some(Self { before, before_proof, after, after_proof })
    }

    /// Whether these are the states that the author committed to.
    pub fn are_of(&self, manifest: &DeltaManifest, slice: Slice) -> bool {
        let count = u64::from(manifest.steps).saturating_add(1);
        let root = &manifest.step_states;
        self.before_proof.verify(root, &self.before, u64::from(slice.from), count)
            && self.after_proof.verify(root, &self.after, u64::from(slice.end()), count)
    }

    /// Whether its lists are within their limits.
    pub const fn is_bounded(&self) -> bool {
        self.before_proof.siblings.len() <= DEPTH_MAX
            && self.after_proof.siblings.len() <= DEPTH_MAX
    }
}

/// What came of the wish to replay a slice; part of what a reviewer writes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replayed {
    /// The same states came out.
    Same,
    /// Other states came out.
    Differs,
    /// The author showed states that it had not committed to.
    Unproven,
    /// The author showed nothing in time, or not the state itself.
    Silent,
    /// Not tried: this reviewer's arithmetic is another.
    OtherFingerprint,
    /// Not tried: the author's results cannot be reproduced bit for bit.
    NotExact,
    /// Not tried: private data went in.
    Private,
    /// Not tried: this delta was not drawn.
    NotDrawn,
}

impl Canonical for Replayed {
    const BYTES_MAX: usize = 8;
}

impl Replayed {
    /// Why a delta cannot be replayed with `fingerprint`, if so.
    pub fn hindrance(manifest: &DeltaManifest, fingerprint: &ContentHash) -> Option<Self> {
        if manifest.data_class == DataClass::Private {
            Some(Self::Private)
        } else if manifest.determinism != Determinism::Exact {
            Some(Self::NotExact)
        } else if manifest.fingerprint != *fingerprint {
            Some(Self::OtherFingerprint)
        } else {
            None
        }
    }

    /// The verdict that it compels, whatever the losses are.
    pub const fn verdict(self) -> Option<Verdict> {
        match self {
            Self::Differs | Self::Unproven => Some(Verdict::Fault),
            Self::Silent => Some(Verdict::Unavailable),
            Self::Same
            | Self::OtherFingerprint
            | Self::NotExact
            | Self::Private
            | Self::NotDrawn => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{HeadId, ModelId, NodeId};

    fn manifest(states: &[ContentHash]) -> DeltaManifest {
        DeltaManifest {
            author: NodeId::default(),
            model: ModelId::default(),
            round: 1,
            parent: HeadId::default(),
            steps: u32::try_from(states.len()).expect("few") - 1,
            seed: 0,
            shards: ContentHash::default(),
            feedback_in: ContentHash::default(),
            feedback_out: ContentHash::default(),
            step_states: merkle::root(states),
            data_class: DataClass::Public,
            determinism: Determinism::Exact,
            fingerprint: ContentHash::of(b"mine"),
            payload: ContentHash::default(),
            payload_bytes: 1,
        }
    }

    #[test]
    fn only_committed_states_at_their_places_pass() {
        let states: Vec<ContentHash> = (0_u8..31).map(|i| ContentHash::of(&[i])).collect();
        let manifest = manifest(&states);
        for from in 0..30 {
            let slice = Slice { from, steps: REPLAY_STEPS_MAX.min(30 - from) };
            let shown = ShownStates::of(&states, slice).expect("within the run");
            assert!(shown.is_bounded() && shown.are_of(&manifest, slice));
            // States of another slice, a state of the author's making, a proof cut short.
            let other = Slice { from: (from + 1) % 29, steps: 2 };
            assert!(!shown.are_of(&manifest, other), "{from}");
            let forged = ShownStates { after: ContentHash::of(b"forged"), ..shown.clone() };
            assert!(!forged.are_of(&manifest, slice));
            let mut cut = shown.clone();
            cut.before_proof.siblings.pop();
            assert!(!cut.are_of(&manifest, slice));
        }
        assert_eq!(ShownStates::of(&states, Slice { from: 30, steps: 1 }), None);
    }

    #[test]
    fn slices_lie_within_the_run_and_move_with_the_beacon() {
        let id = ContributionId::from_bytes([3; 32]);
        let mut seen = std::collections::BTreeSet::new();
        for tag in 0..200 {
            let slice = Slice::draw(&Beacon::from_bytes([tag; 32]), &id, 30, 1_000_000);
            let slice = slice.expect("surely replayed");
            assert!(slice.steps >= 1 && slice.end() <= 30, "{slice:?}");
            seen.insert(slice.from);
        }
        assert!(seen.len() > 25, "every step may be asked for: {seen:?}");
        let one = Slice::draw(&Beacon::default(), &id, 1, 1_000_000);
        assert_eq!(one, Some(Slice { from: 0, steps: 1 }));
    }

    #[test]
    fn as_many_are_replayed_as_the_chance_says() {
        let id = ContributionId::from_bytes([3; 32]);
        let drawn = |replay_ppm| {
            let beacons = (0..200).map(|tag| Beacon::from_bytes([tag; 32]));
            beacons.filter(|beacon| Slice::draw(beacon, &id, 30, replay_ppm).is_some()).count()
        };
        assert_eq!((drawn(0), drawn(1_000_000)), (0, 200));
        assert!((10..=45).contains(&drawn(125_000)), "{}", drawn(125_000));
    }

    #[test]
    fn what_cannot_be_compared_is_named_and_not_punished() {
        let states = [ContentHash::default(), ContentHash::default()];
        let (public, mine) = (manifest(&states), ContentHash::of(b"mine"));
        assert_eq!(Replayed::hindrance(&public, &mine), None);
        let private = DeltaManifest { data_class: DataClass::Private, ..public.clone() };
        let close = DeltaManifest { determinism: Determinism::Close, ..public.clone() };
        for (manifest, fingerprint, expect) in [
            (&public, ContentHash::of(b"another"), Replayed::OtherFingerprint),
            (&private, mine, Replayed::Private),
            (&close, mine, Replayed::NotExact),
        ] {
            assert_eq!(Replayed::hindrance(manifest, &fingerprint), Some(expect));
            assert_eq!(expect.verdict(), None);
        }
        assert_eq!(Replayed::Differs.verdict(), Some(Verdict::Fault));
        assert_eq!(Replayed::Silent.verdict(), Some(Verdict::Unavailable));
    }
}
