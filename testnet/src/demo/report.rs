//! The demo's report: read from the running nodes and their disks, and judged.

use protocol::amount::Height;
use protocol::api;
use protocol::ids::{AccountId, HeadId, NodeId};
use protocol::review::Verdict;
use serde::Serialize;

/// Nats below byte frequencies that the network must reach.
pub(super) const GAIN_NATS_MIN: f64 = 0.3;

/// `target/demo/report.json`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// Nodes started, the late joiner included.
    pub(super) nodes: usize,
    /// Validators.
    pub(super) validators: usize,
    /// Height at the end.
    pub(super) height: Height,
    /// Whether all nodes have the same state root at one height.
    pub(super) state_roots_equal: bool,
    /// Whether every node's audit finds credits conserved.
    pub(super) credits_conserved: bool,
    /// Parameters of the model.
    pub(super) parameters: u64,
    /// Held-out loss of the initial weights, nats per byte.
    pub(super) heldout_loss_start: f64,
    /// Held-out loss of the last head.
    pub(super) heldout_loss_end: f64,
    /// Held-out loss of byte frequencies.
    pub(super) heldout_loss_unigram: f64,
    /// Held-out loss of a bigram table.
    pub(super) heldout_loss_bigram: f64,
    /// Held-out loss of one node that trains alone for the same number of steps.
    pub(super) heldout_loss_alone: f64,
    /// Whether all nodes have the same head.
    pub(super) heads_equal: bool,
    /// The training rounds.
    pub(super) rounds: Vec<RoundReport>,
    /// Whether the poisoned delta was kept out and its bond burned.
    pub(super) poisoned_delta_rejected: bool,
    /// Share of honest deltas that were accepted.
    pub(super) honest_deltas_accepted_ppm: u64,
    /// Whether the killed node caught up with the same state.
    pub(super) killed_node_recovered: bool,
    /// Equivocations proven on the ledger.
    pub(super) double_signs: u64,
    /// The node that joined at the end.
    pub(super) late_joiner: LateJoiner,
    /// Occurrences of the private canary on other nodes' disks.
    pub(super) private_bytes_found_elsewhere: u64,
    /// Who earned what.
    pub(super) credits: Vec<CreditReport>,
    /// Blob bytes that the nodes sent one another (since their last start).
    pub(super) blob_bytes_sent: u64,
    /// Duration of the demo after the build, seconds.
    pub(super) elapsed_s: f64,
}

/// A training round.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RoundReport {
    /// Number.
    pub(super) round: u32,
    /// The certified head; none when the round changed nothing.
    pub(super) head: Option<HeadId>,
    /// Stake behind it.
    pub(super) certified_by_stake_ppm: u32,
    /// The deltas.
    pub(super) deltas: Vec<DeltaReport>,
}

/// A delta.
#[derive(Clone, Debug, Serialize)]
pub(super) struct DeltaReport {
    /// Who made it.
    pub(super) author: NodeId,
    /// The quorum's verdict.
    pub(super) verdict: Option<Verdict>,
    /// Measured gain, ppm of the loss.
    pub(super) score_ppm: i64,
    /// Size on the wire.
    pub(super) payload_bytes: u64,
    /// The same per parameter.
    pub(super) bits_per_parameter: f64,
    /// Whether its bond was burned.
    pub(super) bond_burned: bool,
}

/// The node that joined at the end.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LateJoiner {
    /// Height it had reached.
    pub(super) synced_height: Height,
    /// Whether it fetched the head and its hash is the certified one.
    pub(super) head_verified: bool,
    /// What it generated.
    pub(super) generated_text: String,
}

/// Earnings of an account in a role.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CreditReport {
    /// The account.
    pub(super) account: AccountId,
    /// `contributor`, `reviewer`, `validator`.
    pub(super) role: &'static str,
    /// Micro-credits.
    pub(super) earned_micro: u64,
}

/// Rounds as the report shows them.
pub(super) fn rounds(rounds: &[api::Round]) -> Vec<RoundReport> {
    let delta = |d: &api::Contribution| DeltaReport {
        author: d.author,
        verdict: d.verdict,
        score_ppm: d.score_ppm.unwrap_or(0),
        payload_bytes: d.payload_bytes,
        bits_per_parameter: d.millibits_per_parameter as f64 / 1_000.0,
        bond_burned: d.bond_burned,
    };
    rounds
        .iter()
        .map(|r| RoundReport {
            round: r.round,
            head: r.head,
            certified_by_stake_ppm: r.certified_by_stake_ppm,
            deltas: r.deltas.iter().map(delta).collect(),
        })
        .collect()
}

/// Earnings as the report shows them.
pub(super) fn credits(accounts: &api::Accounts) -> Vec<CreditReport> {
    accounts
        .accounts
        .iter()
        .flat_map(|a| {
            let roles = [
                ("contributor", a.earned.contributor_micro),
                ("reviewer", a.earned.reviewer_micro),
                ("validator", a.earned.validator_micro),
            ];
            roles.map(|(role, earned)| CreditReport {
                account: a.account,
                role,
                earned_micro: earned.micro(),
            })
        })
        .collect()
}

impl Report {
    /// Everything that is not as it should be.
    pub(super) fn faults(&self, rounds: u32) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |ok: bool, text: String| {
            if !ok {
                faults.push(text);
            }
        };
        check(self.state_roots_equal, "the nodes' state roots differ".into());
        check(self.credits_conserved, "credits are not conserved".into());
        check(self.heads_equal, "the nodes' heads differ".into());
        check(self.double_signs == 0, format!("{} double signatures", self.double_signs));
        let below = self.heldout_loss_unigram - self.heldout_loss_end;
        check(
            below >= GAIN_NATS_MIN,
            format!("held-out loss is {below:.3} nats below byte frequencies, not {GAIN_NATS_MIN}"),
        );
        check(
            self.heldout_loss_end < self.heldout_loss_start,
            "training did not lower the held-out loss".into(),
        );
        let certified = self.rounds.iter().filter(|r| r.head.is_some()).count();
        check(
            u32::try_from(certified).is_ok_and(|n| n == rounds),
            format!("{certified} of {rounds} rounds gave a certified head"),
        );
        check(self.poisoned_delta_rejected, "the poisoned delta was not rejected".into());
        check(
            self.honest_deltas_accepted_ppm >= 900_000,
            format!("only {} ppm of honest deltas accepted", self.honest_deltas_accepted_ppm),
        );
        check(self.killed_node_recovered, "the killed node did not recover".into());
        check(self.late_joiner.head_verified, "the late joiner has no verified head".into());
        check(
            !self.late_joiner.generated_text.is_empty(),
            "the late joiner generated nothing".into(),
        );
        check(
            self.private_bytes_found_elsewhere == 0,
            format!("private data found elsewhere {} times", self.private_bytes_found_elsewhere),
        );
        for role in ["contributor", "reviewer", "validator"] {
            let paid: u64 =
                self.credits.iter().filter(|c| c.role == role).map(|c| c.earned_micro).sum();
            check(paid > 0, format!("no {role} was paid"));
        }
        faults
    }
}
