//! The faults of one seed, drawn as a swarm: each kind has its own rate, and is often absent, so
//! that kinds are also seen alone and in pairs.

use protocol::ledger::parameters::LedgerParameters;
use serde::Serialize;

use super::behaviour::Plan;
use super::message::{MS, SECOND, Time};
use super::random::{ALWAYS, Random};

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident: $title:literal,)*) => {
        /// How often each thing happened.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            /// Adds another seed's.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Titles and numbers, in order.
            pub fn rows(&self) -> Vec<(&'static str, u64)> {
                vec![$(($title, self.$name),)*]
            }
        }
    };
}

counts! {
    /// Messages delivered.
    delivered: "messages delivered",
    /// Messages lost.
    lost: "messages lost",
    /// Messages held back, so that later ones overtake them.
    reordered: "messages reordered",
    /// Messages delivered again.
    repeated: "messages replayed",
    /// Partitions of the network.
    partitions: "partitions",
    /// Messages that met a partition.
    cut_off: "messages cut off by them",
    /// Nodes whose clock is wrong.
    skewed: "skewed clocks",
    /// Crashes.
    crashes: "crashes",
    /// Writes cut in their middle.
    torn: "torn writes",
    /// Entries that were written and not synced when the node died.
    unsynced: "unsynced entries lost",
    /// Engine logs damaged or gone.
    logs_lost: "engine logs damaged or gone",
    /// Old copies of a data directory put back.
    backups: "old backups restored",
    /// Votes for two things.
    double_votes: "double votes",
    /// Rounds with two proposals.
    double_proposals: "double proposals",
    /// Validators that run twice with one key.
    twins: "twins",
    /// Bodies, proposals and votes held back.
    withheld: "messages withheld",
    /// Invalid blocks proposed, wrong roots among them.
    invalid_blocks: "invalid blocks proposed",
    /// Blocks built without looking at the mempool.
    censored: "censored blocks",
    /// Votes that make no sense.
    junk_votes: "junk votes",
    /// Wrong answers to a node that fetches blocks.
    lies: "false blocks served",
    /// Transactions of clients that obey the rules.
    transactions: "honest transactions",
    /// Stake put in, taken out and moved.
    stakings: "stake actions",
    /// Jails ended by their owners.
    unjails: "unjailings asked for",
    /// Proposals made.
    proposals: "proposals",
    /// Ballots cast.
    ballots: "ballots",
    /// Two transactions with one nonce.
    double_spends: "double spends",
    /// Nonces out of order.
    bad_nonces: "bad nonces",
    /// Transactions sent again.
    replayed_transactions: "replayed transactions",
    /// Transactions with a wrong signature.
    forged_transactions: "forged transactions",
    /// Transfers of more than there is.
    overdrafts: "overdrafts",
    /// Seen: votes that the signer guard refused.
    refused: "seen: signatures refused by the guard",
    /// Seen: engine logs replayed after a crash.
    replayed: "seen: engine logs replayed",
    /// Seen: invalid blocks that a node refused.
    invalid_blocks_refused: "seen: invalid blocks refused",
    /// Seen: evidence of double votes.
    evidence_found: "seen: evidence found",
    /// Seen: answers of sync taken.
    synced: "seen: sync answers",
    /// Seen: blocks after which other validators are in charge.
    set_changes: "seen: changes of the validator set",
    /// Seen: seeds with such a block.
    seeds_with_set_changes: "seen: seeds with another validator set",
    /// Seen: validators jailed for their absence.
    jailed: "seen: validators jailed",
    /// Seen: validators that came back from jail.
    unjailed: "seen: validators back from jail",
    /// Seen: proposals that passed.
    passed: "seen: proposals passed",
    /// Seen: proposals that did not.
    not_passed: "seen: proposals not passed",
    /// Seen: blocks that changed a number of the rules.
    parameter_changes: "seen: changes of the rules' numbers",
    /// Seen: seeds with such a block.
    seeds_with_parameter_changes: "seen: seeds with changed numbers",
    /// Seen: answers of sync refused.
    bad_answers_refused: "seen: false blocks refused",
}

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// At most f Byzantine: no checker may fire.
    Search,
    /// f+1 Byzantine twins on both sides of a partition: agreement must fall.
    TooManyByzantine,
    /// The signer guard off and logs lost in crashes: somebody must sign twice.
    NoGuard,
}

/// What is made durable first when something is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SignOrder {
    /// The engine's log, then the guard's record: after a crash between them the log leads to the
    /// same vote again, which the guard allows.
    LogFirst,
    /// The guard's record, then the engine's log with what led to the vote. A crash between them
    /// can lead to another vote, which the guard refuses: the node abstains until the height is
    /// final, and with another that is silent for any reason the network halts for ever.
    GuardFirst,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    /// Stake of each validator in whole credits.
    pub(super) stakes: Vec<u64>,
    /// What each validator's Byzantine side does; `None` is honest.
    pub(super) plans: Vec<Option<Plan>>,
    /// Validators that run twice.
    pub(super) twins: Vec<usize>,
    /// Validators whose engine log may be lost, or whose old backup may be restored.
    pub(super) forgetful: Vec<bool>,
    pub(super) loss_ppm: u32,
    pub(super) reorder_ppm: u32,
    pub(super) repeat_ppm: u32,
    pub(super) delay_max: Time,
    /// Mean time between partitions; 0 for never.
    pub(super) partition_every: Time,
    /// Mean time between crashes; 0 for never.
    pub(super) crash_every: Time,
    /// All nodes crash together at times.
    pub(super) has_power_cuts: bool,
    /// Largest clock error in milliseconds.
    pub(super) skew_ms: u64,
    /// Largest error of a clock's rate in parts per million.
    pub(super) drift_ppm: u64,
    pub(super) is_guarded: bool,
    /// Two halves that never meet: instances on the second side.
    pub(super) split: Option<Vec<bool>>,
    /// Misbehaviour of clients per action.
    pub(super) client_fault_ppm: u32,
    /// What accounts may do with their stake.
    pub(super) economy: Economy,
}

/// What accounts may do with their stake. Safety rests on less than a third of the power being
/// broken, so where somebody is, no action may raise the share of the broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Economy {
    /// Transfers only.
    Still,
    /// Stake only comes to who keeps its promises, and goes from there only if it came so.
    Guarded,
    /// Everything: nobody is broken. Validators leave, are jailed and come back.
    Open,
}

impl Economy {
    /// The numbers of the rules: what takes days takes seconds.
    pub(super) fn parameters(self) -> LedgerParameters {
        let quick = LedgerParameters {
            epoch_ms: 20_000,
            unbonding_ms: 45_000,
            unbonding_blocks_min: 60,
            evidence_blocks_max: 60,
            voting_ms: 30_000,
            voting_blocks_min: 5,
            timelock_ms: 5_000,
            emergency_voting_ms: 5_000,
            jail_ms: 5_000,
            ..LedgerParameters::default()
        };
        match self {
            Self::Still => LedgerParameters::default(),
            // Jailing the honest would raise the share of the broken.
            Self::Guarded => LedgerParameters { absence_window_blocks: 1_000_000, ..quick },
            Self::Open => LedgerParameters { absence_window_blocks: 20, ..quick },
        }
    }
}

/// A rate that is zero in half of all seeds.
fn rate(random: &mut Random, ppm_max: u64) -> u32 {
    if random.chance(ALWAYS / 2) { 0 } else { u32::try_from(random.below(ppm_max)).unwrap_or(0) }
}

fn every(random: &mut Random, absent_ppm: u32, low: Time, high: Time) -> Time {
    if random.chance(absent_ppm) { 0 } else { random.between(low, high) }
}

impl Faults {
    /// The faults of a seed.
    pub(super) fn draw(mode: Mode, random: &mut Random) -> Self {
        match mode {
            Mode::Search => Self::search(random),
            Mode::TooManyByzantine => Self::too_many(random),
            Mode::NoGuard => Self::no_guard(random),
        }
    }

    fn quiet(count: usize) -> Self {
        Self {
            stakes: vec![1_000; count],
            plans: vec![None; count],
            twins: Vec::new(),
            forgetful: vec![false; count],
            loss_ppm: 0,
            reorder_ppm: 0,
            repeat_ppm: 0,
            delay_max: 50 * MS,
            partition_every: 0,
            crash_every: 0,
            has_power_cuts: false,
            skew_ms: 0,
            drift_ppm: 0,
            is_guarded: true,
            split: None,
            client_fault_ppm: 0,
            economy: Economy::Still,
        }
    }

    fn search(random: &mut Random) -> Self {
        let count = match random.below(100) {
            0..=87 => 4,
            88..=96 => 7,
            _ => 10,
        };
        let mut faults = Self::quiet(count);
        if random.chance(250_000) {
            faults.stakes = (0..count).map(|_| random.between(800, 1_200)).collect();
        }
        let total: u64 = faults.stakes.iter().sum();
        let mut order: Vec<usize> = (0..count).collect();
        random.shuffle(&mut order);
        // Whoever may break promises, by malice or by loss of memory, has less than a third.
        let mut broken = 0;
        let broken_max = if random.chance(350_000) { 0 } else { random.between(1, 3) };
        for validator in order.into_iter().take(usize::try_from(broken_max).unwrap_or(0)) {
            let stake = faults.stakes[validator];
            if (broken + stake) * 3 >= total {
                break;
            }
            broken += stake;
            match random.below(10) {
                0..=2 => faults.forgetful[validator] = true,
                3..=4 => {
                    faults.plans[validator] = Some(Plan::default());
                    faults.twins.push(validator);
                }
                _ => faults.plans[validator] = Some(Plan::draw(random)),
            }
        }
        faults.loss_ppm = rate(random, 120_000);
        faults.reorder_ppm = rate(random, 150_000);
        faults.repeat_ppm = rate(random, 50_000);
        faults.delay_max = random.between(5, 150) * MS;
        faults.partition_every = every(random, 600_000, 20 * SECOND, 120 * SECOND);
        faults.crash_every = every(random, 400_000, 10 * SECOND, 90 * SECOND);
        faults.has_power_cuts = random.chance(200_000);
        faults.skew_ms = if random.chance(ALWAYS / 2) { 0 } else { random.below(20_000) };
        faults.drift_ppm = if random.chance(ALWAYS / 2) { 0 } else { random.below(100_000) };
        faults.client_fault_ppm = rate(random, 800_000);
        let is_sound = (0..count).all(|validator| faults.keeps_promises(validator));
        faults.economy = if is_sound { Economy::Open } else { Economy::Guarded };
        faults
    }

    /// Whether a validator is neither Byzantine nor forgetful.
    pub(super) fn keeps_promises(&self, validator: usize) -> bool {
        self.plans[validator].is_none() && !self.forgetful[validator]
    }

    /// Twins of f+1 validators, one of each on both sides of a partition that divides the honest.
    fn too_many(random: &mut Random) -> Self {
        let count = if random.chance(750_000) { 4 } else { 7 };
        let byzantine = (count - 1) / 3 + 1;
        let mut faults = Self::quiet(count);
        faults.twins = (0..byzantine).collect();
        for validator in 0..byzantine {
            faults.plans[validator] = Some(Plan::default());
        }
        let honest = count - byzantine;
        let mut sides = vec![false; count + byzantine];
        for (index, side) in sides.iter_mut().enumerate() {
            *side = index >= byzantine + honest / 2;
        }
        faults.split = Some(sides);
        faults
    }

    fn no_guard(random: &mut Random) -> Self {
        let mut faults = Self::quiet(4);
        faults.is_guarded = false;
        faults.forgetful = vec![true; 4];
        faults.loss_ppm = 50_000;
        faults.crash_every = random.between(2, 6) * SECOND;
        faults
    }
}
