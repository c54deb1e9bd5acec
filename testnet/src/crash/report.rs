//! What happened, as a table and as figures.

use std::collections::BTreeMap;

use comfy_table::{Table, presets};
use serde::Serialize;

/// What happened.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    /// Seed of victims and moments.
    pub(super) seed: u64,
    /// Processes killed.
    pub(super) kills: u64,
    /// Of them, by node.
    pub(super) kills_by_node: BTreeMap<String, u64>,
    /// Of them, before they answered.
    pub(super) kills_while_starting: u64,
    /// Of them, while they fetched what they had missed.
    pub(super) kills_while_catching_up: u64,
    /// Blows, each at one node or more.
    pub(super) strikes: u64,
    /// Of them, at two nodes or more at once, not all.
    pub(super) strikes_at_some: u64,
    /// Of them, at all nodes at once.
    pub(super) strikes_at_all: u64,
    /// Half of the killed nodes were back, with a block made after it, within so many seconds.
    pub(super) rejoin_p50_s: f64,
    /// All of them within so many.
    pub(super) rejoin_max_s: f64,
    /// Height at the end.
    pub(super) height: u64,
    /// Times that a node told of a block.
    pub(super) blocks_told: u64,
    /// Told blocks that the node did not have after the kill, or nobody at the end. Aim: 0.
    pub(super) blocks_lost: u64,
    /// Heights for which two different blocks were told, or are held at the end. Aim: 0.
    pub(super) forks: u64,
    /// Transfers that clients were told to be final.
    pub(super) transfers_final: u64,
    /// Transfers that clients were told to be accepted.
    pub(super) transfers_accepted: u64,
    /// Of both, those that are not in the chain, or not where they were told to be. Aim: 0.
    pub(super) transfers_lost: u64,
    /// Votes, proposals and offered blocks that were read.
    pub(super) signatures: u64,
    /// Of them, contradicting another of the same validator. Aim: 0.
    pub(super) signatures_conflicting: u64,
    /// Precommits in certificates without a record in the signer's guard. Aim: 0.
    pub(super) signatures_unrecorded: u64,
    /// Signatures that guards refused to make.
    pub(super) signatures_refused: u64,
    /// Evidence of double signing on the chain. Aim: 0.
    pub(super) double_signs_on_chain: u64,
    /// Nodes that hold the same root at the same height at the end. Aim: all.
    pub(super) nodes_with_one_root: u64,
    /// Nodes whose stores are whole and fit one another at the end, read offline. Aim: all.
    pub(super) nodes_whole: u64,
    /// Nodes whose credits add up. Aim: all.
    pub(super) nodes_conserving: u64,
    /// Validators.
    pub(super) nodes: u64,
    /// Panics in the nodes' logs. Aim: 0.
    pub(super) panics: u64,
    /// Writes that a kill cut short.
    pub(super) torn_writes: u64,
    /// What went wrong, in words.
    pub(super) failures: Vec<String>,
    /// Seconds.
    pub(super) seconds: f64,
}

impl Report {
    /// The aims that were missed.
    pub(super) fn missed(&self) -> Vec<String> {
        let none = [
            ("acknowledged blocks lost", self.blocks_lost),
            ("forks", self.forks),
            ("acknowledged transfers lost", self.transfers_lost),
            ("conflicting signatures", self.signatures_conflicting),
            ("signatures without a record in the guard", self.signatures_unrecorded),
            ("double signs on the chain", self.double_signs_on_chain),
            ("panics", self.panics),
        ];
        let all = [
            ("nodes with one root at one height", self.nodes_with_one_root),
            ("nodes whose stores are whole", self.nodes_whole),
            ("nodes whose credits add up", self.nodes_conserving),
        ];
        // A run without acknowledgements shows nothing.
        let some = [
            ("blocks told of", self.blocks_told),
            ("transfers told to be final", self.transfers_final),
            ("transfers told to be accepted", self.transfers_accepted),
            ("signatures read", self.signatures),
        ];
        let none = none.iter().filter(|(_, count)| *count > 0);
        let none = none.map(|(aim, count)| format!("{count} {aim}, the aim is 0"));
        let all = all.iter().filter(|(_, count)| *count != self.nodes);
        let all = all.map(|(aim, count)| format!("{count} {aim}, the aim is all {}", self.nodes));
        let some = some.iter().filter(|(_, count)| *count == 0);
        let some = some.map(|(aim, _)| format!("0 {aim}, the aim is more"));
        none.chain(all).chain(some).collect()
    }

    pub(super) fn print(&self, title: &str, is_met: bool) {
        let by_node: Vec<String> = self.kills_by_node.values().map(ToString::to_string).collect();
        let of = |count: u64| format!("{count} of {}", self.nodes);
        let rows: Vec<(&str, String)> = vec![
            ("processes killed", self.kills.to_string()),
            ("  by node", by_node.join(", ")),
            ("  while starting", self.kills_while_starting.to_string()),
            ("  while catching up", self.kills_while_catching_up.to_string()),
            ("blows", self.strikes.to_string()),
            ("  at two nodes or three at once", self.strikes_at_some.to_string()),
            ("  at all nodes at once", self.strikes_at_all.to_string()),
            (
                "back and with a new block, p50 / max",
                format!("{:.1} / {:.1} s", self.rejoin_p50_s, self.rejoin_max_s),
            ),
            ("height", self.height.to_string()),
            ("blocks acknowledged, over all nodes", self.blocks_told.to_string()),
            ("  lost (aim 0)", self.blocks_lost.to_string()),
            ("forks (aim 0)", self.forks.to_string()),
            ("transfers told to be final", self.transfers_final.to_string()),
            ("transfers told to be accepted", self.transfers_accepted.to_string()),
            ("  of both, lost (aim 0)", self.transfers_lost.to_string()),
            ("signatures read", self.signatures.to_string()),
            ("  conflicting (aim 0)", self.signatures_conflicting.to_string()),
            ("  not in the signer's guard (aim 0)", self.signatures_unrecorded.to_string()),
            ("signatures that guards refused", self.signatures_refused.to_string()),
            ("double signs on the chain (aim 0)", self.double_signs_on_chain.to_string()),
            ("one root at one height (aim all)", of(self.nodes_with_one_root)),
            ("stores whole, read offline (aim all)", of(self.nodes_whole)),
            ("credits add up (aim all)", of(self.nodes_conserving)),
            ("panics (aim 0)", self.panics.to_string()),
            ("writes cut short by a kill", self.torn_writes.to_string()),
        ];
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        for (name, value) in rows {
            table.add_row([name.to_owned(), value]);
        }
        println!("{title}, seed {}\n{table}", self.seed);
        if is_met {
            println!("every aim stated for this command is met");
        }
        println!("{:.0} s", self.seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        Report {
            blocks_told: 9,
            transfers_final: 9,
            transfers_accepted: 9,
            signatures: 9,
            nodes: 4,
            nodes_with_one_root: 4,
            nodes_whole: 4,
            nodes_conserving: 4,
            ..Report::default()
        }
    }

    #[test]
    fn every_aim_can_be_missed() {
        assert_eq!(good().missed(), Vec::<String>::new());
        for (report, wanted) in [
            (Report { blocks_lost: 1, ..good() }, "blocks lost"),
            (Report { forks: 1, ..good() }, "forks"),
            (Report { transfers_lost: 2, ..good() }, "2 acknowledged transfers"),
            (Report { signatures_conflicting: 1, ..good() }, "conflicting"),
            (Report { signatures_unrecorded: 1, ..good() }, "without a record"),
            (Report { double_signs_on_chain: 1, ..good() }, "double signs"),
            (Report { panics: 1, ..good() }, "panics"),
            (Report { nodes_with_one_root: 3, ..good() }, "the aim is all 4"),
            (Report { nodes_whole: 3, ..good() }, "stores are whole"),
            (Report { nodes_conserving: 0, ..good() }, "credits"),
            (Report { transfers_final: 0, ..good() }, "0 transfers told to be final"),
        ] {
            let missed = report.missed();
            assert_eq!(missed.len(), 1, "{missed:?}");
            assert!(missed[0].contains(wanted), "{missed:?}");
        }
    }
}
