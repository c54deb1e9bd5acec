//! Where a ledger stands, before it is opened: a node decides by it how to catch up.
//!
//! Invariant: what opening would refuse is refused here with the same words, and what opening
//! would put in place (a migration, a prepared snapshot) is put in place. Deliberately absent: the
//! state, the proposals and the signer guard, which opening looks at.

use std::path::Path;

use protocol::amount::Height;
use protocol::block::Header;
use protocol::ids::ChainId;

use crate::block_log::BlockLog;
use crate::identity;
use crate::ledger::OpenError;
use crate::lock::DirectoryLock;
use crate::migrate;
use crate::snapshot;

/// See the module.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Header of the last block; none in a new directory.
    pub last: Option<Header>,
    /// Height of the last block, zero without one.
    pub tip: Height,
}

/// Looks into the data directory of a node that does not run.
pub fn probe(dir: &Path, chain: &ChainId) -> Result<Probe, OpenError> {
    let _lock = DirectoryLock::acquire(dir)?;
    let schema = identity::claim(dir, chain)?;
    migrate::migrate(dir, chain, schema)?;
    snapshot::complete(dir, chain)?;
    let (log, torn) = BlockLog::open(dir, chain)?;
    if let Some(tail) = torn {
        tracing::warn!(
            path = %tail.path.display(), offset = tail.offset, bytes = tail.bytes,
            "cut off a write that a crash interrupted"
        );
    }
    let Some(tip) = log.tip() else { return Ok(Probe { last: None, tip: Height::ZERO }) };
    let last = log.header(tip.height)?.map(|(header, _)| header);
    Ok(Probe { last, tip: tip.height })
}
