//! What the state holds under each key. All canonical; golden hashes pin them.

mod governance;
pub mod staking;

pub use governance::*;

use serde::{Deserialize, Serialize};

use crate::amount::{Credits, Height, TimestampMs};
use crate::codec::Canonical;
use crate::ids::{
    AccountId, Beacon, Commitment, ContentHash, ContributionId, HeadId, ModelId, NodeId, derive,
};
use crate::keys::PublicKey;
use crate::limits;
use crate::model::{DataKind, DeltaManifest, Head, ModelSpec, RoundParameters};
use crate::review::{Gain, Review, Verdict};
use crate::transaction::{Capabilities, NodeKeys};

/// What an account earned, by role. Statistics; the credits are in the balance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earned {
    /// For merged deltas.
    pub contributor: Credits,
    /// For reviews that matched the verdict.
    pub reviewer: Credits,
    /// For signing blocks.
    pub validator: Credits,
    /// Tips of transactions in own blocks.
    pub tips: Credits,
}

/// An account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The key that controls it, once it was rotated or named in the genesis; otherwise the
    /// key whose hash is the account id.
    pub key: Option<PublicKey>,
    /// Free credits.
    pub balance: Credits,
    /// Statistics.
    pub earned: Earned,
    /// Bonds lost. Statistics.
    pub forfeited: Credits,
}

impl Canonical for Account {
    const BYTES_MAX: usize = 256;
}

/// A registered node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its owner.
    pub account: AccountId,
    /// Its keys.
    pub keys: NodeKeys,
    /// What it offers.
    pub capabilities: Capabilities,
    /// Credits for fees and bonds of duties.
    pub allowance: Credits,
    /// Credits at stake here: its owner's and those delegated to it.
    pub stake: Credits,
    /// When it was registered.
    pub since: Height,
}

impl Canonical for Node {
    const BYTES_MAX: usize = 512;
}

/// A published dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dataset {
    /// Hash of the manifest.
    pub manifest: ContentHash,
    /// Name.
    pub name: String,
    /// Publisher.
    pub owner: AccountId,
    /// Node that serves it first.
    pub node: NodeId,
    /// Number of shards.
    pub shards: u32,
    /// Bytes of all shards.
    pub bytes: u64,
    /// What they hold.
    pub kind: DataKind,
    /// When it was published.
    pub height: Height,
    /// What governance decided on it.
    pub status: DatasetStatus,
}

/// What governance decided on a dataset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatasetStatus {
    /// Nothing: trains models unless the rules ask for an admission.
    #[default]
    Undecided,
    /// Admitted: trains models.
    Admitted,
    /// Removed: assigned to no round from then on.
    Removed,
}

impl DatasetStatus {
    /// Whether rounds may use it.
    pub const fn is_usable(self, needs_admission: bool) -> bool {
        match self {
            Self::Undecided => !needs_admission,
            Self::Admitted => true,
            Self::Removed => false,
        }
    }
}

impl Canonical for Dataset {
    const BYTES_MAX: usize = 512;
}

/// A model and its certified head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// The specification.
    pub spec: ModelSpec,
    /// Who registered it.
    pub owner: AccountId,
    /// How many models were registered before it: of one name, the first has it.
    pub number: u32,
    /// The certified head.
    pub head: Head,
    /// Share of the emission that its rounds may draw, in ppm.
    pub weight_ppm: u32,
    /// The run in progress, if any.
    pub run: Option<Run>,
    /// Index of the next round; the first is 1.
    pub next_round: u32,
    /// Whether it is paused: no round opens or starts, no member joins.
    pub paused: bool,
    /// The only datasets that its rounds train on; empty for all.
    pub direction: Vec<ContentHash>,
}

impl Canonical for Model {
    const BYTES_MAX: usize = 4096;
}

/// Rounds that were opened together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Who opened and paid.
    pub sponsor: AccountId,
    /// How each round is run.
    pub parameters: RoundParameters,
    /// Its first round: the learning rate's schedule counts from it.
    pub first_round: u32,
    /// The newest round. With overlap the one before it may still be open.
    pub round: u32,
    /// Rounds to open after it.
    pub rounds_left: u32,
    /// Escrow not yet given to a round.
    pub escrow: Credits,
}

/// Where a round stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Members join.
    Joining,
    /// Waiting for the beacon that assigns the data.
    Assigning,
    /// Members train and commit.
    Training,
    /// Members reveal.
    Submitting,
    /// Waiting for the beacon that draws panels and windows.
    Drawing,
    /// Panels review and commit.
    Reviewing,
    /// Panels reveal.
    Revealing,
    /// Attestors state the next head.
    Attesting,
    /// Over: a new head was certified.
    Certified,
    /// Over: the head stays as it was.
    Unchanged,
}

impl Phase {
    /// Whether the round is over.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Certified | Self::Unchanged)
    }

    /// Whether the round waits for a beacon, so that blocks should come at once.
    pub const fn waits_for_beacon(self) -> bool {
        matches!(self, Self::Assigning | Self::Drawing)
    }
}

/// A node that joined a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Its account.
    pub account: AccountId,
    /// Bond locked, returned or burned when the round ends.
    pub bond: Credits,
    /// Bond that a newcomer did not have; withheld from its reward, to be its allowance.
    pub withheld: Credits,
}

/// A node that may attest the head of a round, frozen when joining closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestor {
    /// The node.
    pub node: NodeId,
    /// Its stake then.
    pub stake: Credits,
    /// What it attested.
    pub attested: Option<Attestation>,
}

/// An attested head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    /// The head.
    pub head: Head,
    /// Proof of possession of the checkpoint.
    pub possession: Commitment,
    /// Measured gain over the parent.
    pub gain: Gain,
}

/// The head onto which a round's deltas are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The head.
    pub head: Head,
    /// Chain time at which it was known.
    pub since: TimestampMs,
    /// Height at which it was known.
    pub height: Height,
}

/// A training round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// The model.
    pub model: ModelId,
    /// Its number, from 1.
    pub index: u32,
    /// Where it stands.
    pub phase: Phase,
    /// Chain time when the phase began.
    pub phase_since: TimestampMs,
    /// Height when the phase began.
    pub phase_height: Height,
    /// How it is run.
    pub parameters: RoundParameters,
    /// First round of its run.
    pub run_first: u32,
    /// The head from which members train: the newest certified one when the round opened.
    pub parent: Head,
    /// The head onto which its deltas are merged; known when the round before is over.
    pub base: Option<Base>,
    /// Escrow of this round.
    pub escrow: Credits,
    /// Who paid the escrow.
    pub sponsor: AccountId,
    /// Members in the order of joining.
    pub members: Vec<Member>,
    /// Members of the round before whose deltas come late into this one, in the order of their
    /// commitments, with the bonds on those.
    pub late: Vec<Member>,
    /// Attestors.
    pub attestors: Vec<Attestor>,
    /// Datasets (manifest, shards) available when joining closed.
    pub datasets: Vec<(ContentHash, u32)>,
    /// Beacon that assigned the data.
    pub assignment_beacon: Beacon,
    /// Beacon that drew panels and windows.
    pub review_beacon: Beacon,
    /// The new head, when certified.
    pub head: Option<HeadId>,
    /// Stake behind it, ppm of all attestors' stake.
    pub certified_ppm: u32,
    /// Gain of the new head over the parent: stake-weighted lower median.
    pub gain: Gain,
    /// Credits paid out.
    pub paid: Credits,
}

impl Canonical for Round {
    const BYTES_MAX: usize = limits::STATE_VALUE_BYTES_MAX;
}

impl Round {
    /// Total shards of the round's datasets.
    pub fn total_shards(&self) -> u64 {
        self.datasets.iter().fold(0, |sum, (_, n)| sum.saturating_add(u64::from(*n)))
    }

    /// The dataset and index within it of a shard number.
    pub fn locate_shard(&self, mut number: u64) -> Option<(ContentHash, u32)> {
        for (manifest, shards) in &self.datasets {
            let shards = u64::from(*shards);
            match number.checked_sub(shards) {
                Some(rest) => number = rest,
                None => return u32::try_from(number).ok().map(|n| (*manifest, n)),
            }
        }
        None
    }

    /// Position of a node among the members.
    pub fn member_index(&self, node: &NodeId) -> Option<usize> {
        self.members.iter().position(|m| m.node == *node)
    }

    /// Shard numbers assigned to the member at `index`.
    pub fn shards_of(&self, index: usize) -> Vec<u64> {
        crate::training::assigned_shards(
            &self.assignment_beacon,
            &self.model,
            self.index,
            index,
            self.total_shards(),
            self.parameters.shards_per_member,
        )
    }

    /// Hash of a list of shard numbers, as delta manifests carry it.
    pub fn shards_hash(shards: &[u64]) -> ContentHash {
        let bytes: Vec<[u8; 8]> = shards.iter().map(|n| n.to_le_bytes()).collect();
        let parts: Vec<&[u8]> = bytes.iter().map(<[u8; 8]>::as_slice).collect();
        ContentHash::from_bytes(derive("ayni 2026 assigned shards v1", &parts))
    }

    /// Id of a member's contribution to this round.
    pub fn contribution_id(&self, author: &NodeId) -> ContributionId {
        contribution_id(&self.model, self.index, author)
    }

    /// The head onto which its deltas are merged, as far as it is known.
    pub fn base(&self) -> &Head {
        self.base.as_ref().map_or(&self.parent, |base| &base.head)
    }

    /// Everybody whose delta may take part, with the delta's id: members, then those of the round
    /// before whose deltas come late.
    pub fn entries(&self) -> impl Iterator<Item = (ContributionId, &Member)> {
        let before = self.index.saturating_sub(1);
        let own = self.members.iter().map(|m| (self.contribution_id(&m.node), m));
        let late = self.late.iter();
        own.chain(late.map(move |m| (contribution_id(&self.model, before, &m.node), m)))
    }

    /// Inner steps of the run before this round: where the learning rate's schedule stands.
    pub fn steps_before(&self) -> u64 {
        let rounds = u64::from(self.index.saturating_sub(self.run_first));
        rounds.saturating_mul(u64::from(self.parameters.inner_steps))
    }
}

/// Id of the contribution of `author` to a round.
pub fn contribution_id(model: &ModelId, round: u32, author: &NodeId) -> ContributionId {
    ContributionId::from_bytes(derive(
        "ayni 2026 contribution id v1",
        &[model.as_bytes(), &round.to_le_bytes(), author.as_bytes()],
    ))
}

/// A seat of a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// The reviewer.
    pub node: NodeId,
    /// Its commitment.
    pub commitment: Option<Commitment>,
    /// Its revealed review.
    pub review: Option<Review>,
    /// What the reviewer was paid for it.
    pub paid: Credits,
}

/// A delta on its way through review.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contribution {
    /// The model.
    pub model: ModelId,
    /// The round for which it was trained.
    pub round: u32,
    /// The round that reviews and merges it: the same, or the next one for a late delta.
    pub merged_in: u32,
    /// The author.
    pub author: NodeId,
    /// Commitment made before anyone revealed.
    pub commitment: Commitment,
    /// The covering letter, once revealed.
    pub manifest: Option<DeltaManifest>,
    /// The panel.
    pub panel: Vec<Seat>,
    /// The quorum's verdict, once settled.
    pub verdict: Option<Verdict>,
    /// Lower median of the agreeing reviewers' mean gains, ppm of the base loss.
    pub score_ppm: i64,
    /// Attestors who could not fetch it after it was accepted.
    pub unavailable: Vec<NodeId>,
    /// What the author was paid for it.
    pub paid: Credits,
}

impl Canonical for Contribution {
    const BYTES_MAX: usize = 16 * 1024;
}

impl Contribution {
    /// Its id.
    pub fn id(&self) -> ContributionId {
        contribution_id(&self.model, self.round, &self.author)
    }

    /// Whether it came a round late.
    pub const fn is_late(&self) -> bool {
        self.merged_in != self.round
    }
}

/// Where the chain stands: changes with every block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Height of the last applied block.
    pub height: Height,
    /// Header times of the last blocks, oldest first.
    pub recent_times: Vec<TimestampMs>,
    /// Monotone median of the header times.
    pub time: TimestampMs,
    /// Beacon of the last applied block.
    pub beacon: Beacon,
    /// Emission epoch: a count that only grows, however often a vote changes the length.
    pub epoch: u64,
    /// Chain time at which it began.
    pub epoch_since: TimestampMs,
    /// Beacon of the block that began the epoch; work stamps build on it.
    pub epoch_beacon: Beacon,
    /// The epoch before, and its beacon: stamps made just before the change stay good.
    pub previous_epoch: (u64, Beacon),
    /// Burned per byte of a transaction in the next block.
    pub base_fee: Credits,
    /// The last height whose state every node keeps as a snapshot; zero before the first.
    pub snapshot: Height,
}

impl Canonical for Clock {
    const BYTES_MAX: usize = 512;
}

/// Totals of the credits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supply {
    /// Credits of the genesis.
    pub genesis: Credits,
    /// Credits made since.
    pub minted: Credits,
    /// Credits destroyed since.
    pub burned: Credits,
    /// Credits of the treasury.
    pub treasury: Credits,
    /// Credits minted in the running epoch.
    pub minted_this_epoch: Credits,
    /// Credits from escrows for validators, shared at the end of the epoch.
    pub validators: Credits,
}

impl Canonical for Supply {
    const BYTES_MAX: usize = 64;
}

/// What is registered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    /// Models with a run in progress, in the order of opening.
    pub active: Vec<ModelId>,
    /// Models registered.
    pub models: u32,
    /// Datasets registered, in order.
    pub datasets: Vec<ContentHash>,
    /// Nodes registered.
    pub nodes: u32,
    /// Equivocations proven.
    pub double_signs: u64,
}

impl Canonical for Registry {
    const BYTES_MAX: usize = limits::STATE_VALUE_BYTES_MAX;
}
