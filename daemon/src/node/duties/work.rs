//! The parts of duties that the worker computes, in the order in which they are done.

use std::sync::Arc;

use protocol::api::{DutyKind, DutyStatus, JobProgress};
use protocol::ids::ModelId;
use tokio_util::sync::CancellationToken;

use super::{Outcome, attest, compress, review, show, train};
use crate::node::Node;
use crate::node::notes::Notes;

/// The most urgent first: others wait for reviews and heads, nobody for inner steps but the node
/// itself. Reviews of a round are done together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// Making the states that reviewers will ask for.
    Show(ModelId, u32),
    /// Reviewing a round's deltas.
    Review(ModelId, u32),
    /// Merging a round's deltas.
    Attest(ModelId, u32),
    /// Making the delta of a run.
    Compress(ModelId, u32),
    /// Inner steps.
    Train(ModelId, u32),
}

impl Work {
    /// For people.
    pub(super) fn status(self) -> DutyStatus {
        let (kind, model, round) = match self {
            Self::Train(model, round) | Self::Compress(model, round) | Self::Show(model, round) => {
                (DutyKind::Train, model, round)
            }
            Self::Review(model, round) => (DutyKind::Review, model, round),
            Self::Attest(model, round) => (DutyKind::Merge, model, round),
        };
        DutyStatus {
            kind,
            model,
            round,
            progress: JobProgress::default(),
            loss_nanonats: None,
            per_second: None,
            eta_ms: None,
            finished: false,
            error: None,
        }
    }

    /// Whether it ends when it is told to, keeping what it has.
    pub(super) const fn is_interruptible(self) -> bool {
        matches!(self, Self::Train(..))
    }

    /// Does it.
    pub(super) async fn run(
        self,
        node: &Arc<Node>,
        notes: &Notes,
        stop: CancellationToken,
    ) -> Outcome {
        match self {
            Self::Train(model, round) => train::train(node, notes, (model, round), stop).await,
            Self::Compress(model, round) => compress::compress(node, notes, (model, round)).await,
            Self::Show(model, round) => show::show(node, notes, (model, round)).await,
            Self::Review(model, round) => review::review(node, notes, model, round).await,
            Self::Attest(model, round) => attest::attest(node, notes, model, round).await,
        }
    }
}
