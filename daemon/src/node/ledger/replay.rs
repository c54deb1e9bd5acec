//! Bringing the state up to the block log when a node starts.

use anyhow::Context as _;
use protocol::block::BoundBlock;
use protocol::host::{Host, Tip};
use protocol::ledger::genesis::Genesis;
use protocol::ledger::state::State;
use storage::{LedgerStore, Replay};

use super::past::{self, Past};
use super::snapshots;

/// Brings the state up to the block log and makes the host that stands there.
pub(super) fn replay(
    store: &mut LedgerStore,
    genesis: &Genesis,
    past: &mut Past<'_>,
) -> anyhow::Result<Host> {
    let genesis_state = genesis.build().context("the genesis is not valid")?;
    let mut host: Option<Host> = None;
    let mut replayed = 0_u64;
    while let Some(next) = store.next_replay().context("cannot read the block log")? {
        match next {
            Replay::Genesis => {
                store.commit_genesis(&genesis_state.1).context("cannot store the genesis")?;
            }
            Replay::Block(decided) => {
                let mut at = match host.take() {
                    Some(host) => host,
                    None => host_at_state(store, genesis)?,
                };
                let view = store.view();
                let block = BoundBlock::parse(&decided.block)
                    .with_context(|| format!("block {} of the log", at.height()))?;
                let height = at.height();
                let base_fee = view.read(|state| State::new(state).clock().base_fee);
                past::remember_base_fee(&mut past.base_fees, height, base_fee);
                let decision = view
                    .read(|state| at.decide(state, *decided, &block))
                    .with_context(|| format!("block {height} of the log does not replay"))?;
                let root =
                    store.commit_replayed(&decision.changes).context("cannot replay a block")?;
                view.read(|state| at.committed(&decision, root, state));
                past::remember_set(past.sets, at.next_validators());
                snapshots::take_if_due(store, &mut at).context("cannot take a snapshot")?;
                replayed += 1;
                host = Some(at);
            }
        }
    }
    if replayed > 0 {
        tracing::info!(blocks = replayed, "replayed the block log");
    }
    let host = match host {
        Some(host) => host,
        None => host_at_state(store, genesis)?,
    };
    past::remember_set(past.sets, host.validators());
    past::remember_set(past.sets, host.next_validators());
    Ok(host)
}

fn host_at_state(store: &LedgerStore, genesis: &Genesis) -> anyhow::Result<Host> {
    let view = store.view();
    let at = view.tip().context("the state has no height after replay")?;
    let certificate = store
        .blocks()
        .get(at.height)
        .context("cannot read the block log")?
        .map(|decided| decided.certificate);
    let tip = Tip { height: at.height, block: at.block, certificate, state: view.root() };
    let mut host = view.read(|state| Host::new(genesis.chain_id(), tip, state));
    snapshots::tell(store, &mut host).context("cannot list the snapshots")?;
    Ok(host)
}
