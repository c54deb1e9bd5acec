//! Figures, aims, and what is printed.

use comfy_table::{Table, presets};
use protocol::amount::Height;
use serde::Serialize;

use super::strike::Moment;
use crate::bench::training::site::NODES;

/// One kill and what came after it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Kill {
    pub(super) node: usize,
    /// What it was to have in hand.
    pub(super) wanted: Moment,
    /// What it had.
    pub(super) in_hand: Moment,
    /// From the kill to the start.
    pub(super) down_s: f64,
    /// From the kill to its first answer.
    pub(super) answers_s: f64,
    /// From the kill to the next certified round, on whichever node it was seen first.
    pub(super) next_round_s: f64,
}

impl Kill {
    /// A line for people.
    pub(super) fn said(&self) -> String {
        format!(
            "node-{} with {:?} in hand; answers after {:.1} s, next round after {:.1} s",
            self.node, self.in_hand, self.answers_s, self.next_round_s
        )
        .to_lowercase()
    }
}

/// Text trained on, in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Work {
    /// All inner steps that any worker took.
    pub(super) computed: u64,
    /// Each step once.
    pub(super) once: u64,
    /// In deltas that were merged into a certified head.
    pub(super) integrated: u64,
    /// In deltas that came, and that reviewers did not accept.
    pub(super) refused: u64,
}

/// What a run found.
pub(super) struct Found {
    pub(super) kills: Vec<Kill>,
    pub(super) work: Work,
    pub(super) rounds: usize,
    pub(super) certified: usize,
    pub(super) paid_micro: u64,
    pub(super) lost: Vec<String>,
    pub(super) heads_agree: bool,
    pub(super) heads_held: usize,
    pub(super) height: Height,
    pub(super) blocks_agree: bool,
    pub(super) conserved: bool,
    /// Transactions that are still pending, by node.
    pub(super) pending: Vec<u32>,
    pub(super) double_signs: u64,
    pub(super) seconds: f64,
}

/// The whole benchmark.
#[derive(Clone, Debug, Serialize)]
pub(in crate::bench::faults) struct Report {
    scale: &'static str,
    nodes: usize,
    kills: Vec<Kill>,
    rounds: usize,
    rounds_certified: usize,
    paid_micro: u64,
    work: Work,
    height: Height,
    seconds: f64,
    /// Least, median and most.
    next_round_s: [f64; 3],
    integrated_over_computed: f64,
    transactions_pending: Vec<u32>,
    double_signs: u64,
    credits_conserved: bool,
    blocks_agree: bool,
    heads_agree: bool,
    heads_held: usize,
    committed_work_lost: Vec<String>,
    aims_missed: Vec<String>,
}

impl Report {
    pub(super) fn new(found: Found) -> Self {
        let mut next: Vec<f64> = found.kills.iter().map(|kill| kill.next_round_s).collect();
        next.sort_by(f64::total_cmp);
        let at = |index: usize| next.get(index).copied().unwrap_or(0.0);
        let mut report = Self {
            scale: "toy scale: says nothing about larger models",
            nodes: NODES,
            next_round_s: [at(0), at(next.len() / 2), at(next.len().saturating_sub(1))],
            integrated_over_computed: found.work.integrated as f64
                / found.work.computed.max(1) as f64,
            kills: found.kills,
            rounds: found.rounds,
            rounds_certified: found.certified,
            paid_micro: found.paid_micro,
            work: found.work,
            height: found.height,
            seconds: found.seconds,
            transactions_pending: found.pending,
            double_signs: found.double_signs,
            credits_conserved: found.conserved,
            blocks_agree: found.blocks_agree,
            heads_agree: found.heads_agree,
            heads_held: found.heads_held,
            committed_work_lost: found.lost,
            aims_missed: Vec::new(),
        };
        report.aims_missed = report.missed();
        report
    }

    /// The aims that were missed, in words.
    pub(in crate::bench::faults) fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let mut check = |ok: bool, text: String| {
            if !ok {
                missed.push(text);
            }
        };
        let lost = &self.committed_work_lost;
        check(lost.is_empty(), format!("no committed work is lost: {}", lost.join("; ")));
        check(self.blocks_agree, "all nodes have the same last block".into());
        check(self.credits_conserved, "credits are conserved".into());
        check(self.heads_agree, "all nodes have the same head at the end".into());
        let held = self.heads_held;
        let quorum = 3 * held > 2 * self.nodes;
        check(quorum, format!("more than two thirds hold the last head: {held} of them do"));
        check(self.double_signs == 0, format!("{} double signatures", self.double_signs));
        // A run in which nothing became final could lose nothing.
        let certified = self.rounds_certified;
        check(certified >= self.kills.len(), format!("{certified} certified rounds are too few"));
        check(self.paid_micro > 0, "somebody is paid".into());
        missed
    }

    /// The tables.
    pub(in crate::bench::faults) fn print(&self) {
        println!("\n{} nodes, {} kills; {}", self.nodes, self.kills.len(), self.scale);
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header([
            "kill",
            "node",
            "wanted",
            "in hand",
            "down, s",
            "answers after, s",
            "next round after, s",
        ]);
        for (number, kill) in self.kills.iter().enumerate() {
            let moment = |moment: Moment| format!("{moment:?}").to_lowercase();
            table.add_row([
                (number + 1).to_string(),
                format!("node-{}", kill.node),
                moment(kill.wanted),
                moment(kill.in_hand),
                format!("{:.1}", kill.down_s),
                format!("{:.1}", kill.answers_s),
                format!("{:.1}", kill.next_round_s),
            ]);
        }
        println!("{table}");
        let Work { computed, once, integrated, refused } = self.work;
        let share = |part: u64| 100.0 * part as f64 / computed.max(1) as f64;
        println!(
            "{} of {} rounds certified in {:.0} s, height {}, {} micro-credits paid",
            self.rounds_certified, self.rounds, self.seconds, self.height, self.paid_micro
        );
        println!(
            "tokens computed {computed}: merged {integrated} ({:.1} %), not accepted {refused} \
             ({:.1} %), taken again {} ({:.1} %)",
            share(integrated),
            share(refused),
            computed - once,
            share(computed - once)
        );
        println!("transactions still pending, by node: {:?}", self.transactions_pending);
        let [least, median, most] = self.next_round_s;
        println!("next certified round after a kill: {median:.1} s ({least:.1} to {most:.1})");
        println!("tokens integrated over computed:   {:.3}", self.integrated_over_computed);
        println!(
            "heads agree on all nodes:          {} ({} of {} hold the last one)",
            self.heads_agree, self.heads_held, self.nodes
        );
        println!("committed work lost:               {}", self.committed_work_lost.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Found {
        let kill = |next_round_s| Kill {
            node: 1,
            wanted: Moment::Training,
            in_hand: Moment::Between,
            down_s: 1.0,
            answers_s: 2.0,
            next_round_s,
        };
        Found {
            kills: vec![kill(9.0), kill(3.0), kill(5.0)],
            work: Work { computed: 100, once: 90, integrated: 80, refused: 5 },
            rounds: 5,
            certified: 5,
            paid_micro: 1,
            lost: Vec::new(),
            heads_agree: true,
            heads_held: NODES,
            height: Height::new(9),
            blocks_agree: true,
            conserved: true,
            pending: vec![0; NODES],
            double_signs: 0,
            seconds: 1.0,
        }
    }

    #[test]
    fn each_aim_is_judged_by_itself() {
        let good = Report::new(found());
        assert_eq!(good.aims_missed, Vec::<String>::new());
        assert_eq!((good.next_round_s, good.integrated_over_computed), ([3.0, 5.0, 9.0], 0.8));
        for bad in [
            Found { lost: vec!["round 1".into()], ..found() },
            Found { heads_agree: false, ..found() },
            Found { blocks_agree: false, ..found() },
            Found { conserved: false, ..found() },
            Found { heads_held: NODES * 2 / 3, ..found() },
            Found { double_signs: 1, ..found() },
            Found { certified: 2, ..found() },
            Found { paid_micro: 0, ..found() },
        ] {
            assert_eq!(Report::new(bad).aims_missed.len(), 1);
        }
    }
}
