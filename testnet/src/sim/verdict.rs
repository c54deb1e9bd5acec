//! The checks at the end of a seed: evidence, replay, balances; and its hash.

use std::collections::BTreeSet;

use protocol::amount::Height;
use protocol::block::{Block, DecidedBlock, Evidence};
use protocol::codec;

use super::chain;
use super::checkers::Checker;
use super::faults::Mode;
use super::node::Node;
use super::world::{Outcome, World};

/// Double votes shown to everybody, after which their author must be on the ledger.
const LOUD_MAX: u64 = 60;
/// One seed in this many replays its blocks from genesis.
const REPLAY_EVERY: u64 = 10;

impl World {
    /// Judges what is left and says how it ended.
    pub(super) fn finish(mut self) -> Outcome {
        for node in &self.nodes {
            self.shared.counts.torn += node.disk.losses.torn;
            self.shared.counts.unsynced += node.disk.losses.unsynced;
        }
        for (checker, text) in std::mem::take(&mut self.shared.execution.wrong) {
            self.shared.checks.violated(checker, text);
        }
        self.shared.execution.seen.count(&mut self.shared.counts);
        let mut is_replayed = false;
        if self.mode == Mode::Search {
            self.judge_evidence();
            if self.seed.is_multiple_of(REPLAY_EVERY) {
                is_replayed = true;
                self.replay();
            }
        }
        for node in &self.nodes {
            self.hasher.update(node.at.root.as_bytes());
        }
        Outcome {
            hash: *self.hasher.finalize().as_bytes(),
            heights: self.lowest.get(),
            events: self.events,
            time: self.now,
            executed: self.shared.execution.executed,
            counts: self.shared.counts,
            violations: self.shared.checks.into_violations(),
            is_replayed,
        }
    }

    /// The blocks of a node's log.
    fn blocks_of(node: &Node) -> Vec<DecidedBlock> {
        (1..=node.height().get()).map_while(|h| node.disk.decided(Height::new(h))).collect()
    }

    /// Nobody honest is named; who votes twice before everybody's eyes is.
    fn judge_evidence(&mut self) {
        let ids: Vec<_> = self
            .shared
            .network
            .secrets
            .iter()
            .map(|secrets| secrets.consensus.public().validator_id())
            .collect();
        let Some(node) = self.nodes.iter().find(|node| node.is_honest && node.is_up) else {
            return;
        };
        let mut named = BTreeSet::new();
        for decided in Self::blocks_of(node) {
            let block: Block = codec::decode(&decided.block).expect("a stored block decodes");
            named.extend(block.evidence.iter().map(|evidence| match evidence {
                Evidence::DoubleVote { first, .. } => first.0.validator,
                Evidence::DoubleProposal { first, .. } => first.0.proposer,
            }));
        }
        let mut texts = Vec::new();
        for node in &self.nodes {
            let is_named = named.contains(&ids[node.validator]);
            if node.is_honest && is_named {
                texts.push(format!("honest validator {} is named", node.validator));
            }
            if node.loud_double_votes() >= LOUD_MAX && !is_named {
                texts.push(format!(
                    "validator {} voted twice {} times and is not named",
                    node.validator,
                    node.loud_double_votes()
                ));
            }
        }
        for text in texts {
            self.shared.checks.violated(Checker::Evidence, text);
        }
    }

    /// Replays one honest node's log and compares roots. The others hold the same blocks, which
    /// agreement has compared.
    fn replay(&mut self) {
        let Some(node) = self.nodes.iter().find(|node| node.is_honest && node.is_up) else {
            return;
        };
        let text = match chain::replay(&self.shared.network, &Self::blocks_of(node)) {
            Ok(root) if root == node.at.root => return,
            Ok(root) => format!("{} holds {}, its blocks give {root}", node.instance, node.at.root),
            Err(text) => format!("instance {}: {text}", node.instance),
        };
        self.shared.checks.violated(Checker::Replay, text);
    }
}
