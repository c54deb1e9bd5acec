//! Where transactions are found again: by hash, by account, newest first. For people alone.
//!
//! ```text
//! 's'                                  -> schema u32 LE
//! 'm'                                  -> height u64 LE | block hash, of the last block written
//! 'b' block hash                       -> height u64 BE
//! 'f' height u64 BE                    -> base fee per byte u64 LE, where it was known
//! 't' first byte of hash | chunk       -> (rest of the hash (31) | position) ..., ascending
//! 'a' account | last position          -> position ..., ascending
//! position = height u64 BE | index u32 BE        chunk = height u64 BE of its last block
//! ```
//!
//! Blocks are gathered in memory (`pending`) and written together. A look-up of a transaction
//! reads its part of every chunk, newest first.
//!
//! **Invariant.** One write is one atomic batch, so what is written never claims a block whose
//! transactions are missing; a crash costs what was gathered, which the block log has. Nothing of
//! consensus reads this: the block log is the truth, and whoever looks something up here reads the
//! block and finds it there.
//!
//! Everything here follows from the block log, so an index of another schema, or a damaged one, is
//! removed and made anew; nothing is migrated. Deliberately absent: the transactions themselves,
//! reading blocks, threads.

mod page;
mod pending;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use protocol::amount::{Credits, Height};
use protocol::ids::{AccountId, BlockHash, TransactionHash};
use thiserror::Error;

use crate::block_log::Tip;
use crate::durable::{self, FileError, at};
use page::{part_of, position_bytes};
use pending::Pending;

/// Format of the index. Any other is removed and made anew.
pub const SCHEMA_VERSION: u32 = 2;
/// Positions in one page at most: each costs its reader a block.
pub const PAGE_MAX: usize = 256;
/// Memory that sled may use for pages. People ask rarely.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;

const SCHEMA: &[u8] = b"s";
const TIP: &[u8] = b"m";
const BLOCK: u8 = b'b';
const BASE_FEE: u8 = b'f';
const TRANSACTION: u8 = b't';
const ACCOUNT: u8 = b'a';

/// Why the index does not answer.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// Not the next block.
    #[error("block {found} does not follow: the history expects height {expected}")]
    OutOfOrder {
        /// Height of the block.
        found: Height,
        /// Height that comes next.
        expected: Height,
    },
    /// It must be made anew: [`History::rebuild`].
    #[error("the history is damaged: {0}")]
    Damaged(String),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Where a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Height of its block.
    pub height: Height,
    /// Its place in the block, from 0.
    pub index: u32,
}

/// A block as the index needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedBlock {
    /// Its height and hash.
    pub at: Tip,
    /// What a byte of its transactions cost, if it is known.
    pub base_fee: Option<Credits>,
    /// Its transactions in order.
    pub transactions: Vec<IndexedTransaction>,
}

/// A transaction as the index needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedTransaction {
    /// Its hash.
    pub hash: TransactionHash,
    /// The accounts in whose history it belongs.
    pub accounts: Vec<AccountId>,
}

/// The index of one chain.
#[derive(Debug)]
pub struct History {
    dir: PathBuf,
    db: sled::Db,
    pending: Pending,
}

impl History {
    /// Opens or creates the index in `dir`. Says whether it had to be made anew.
    ///
    /// One process per directory: the caller holds the [`crate::lock::DirectoryLock`].
    pub fn open(dir: &Path) -> Result<(Self, bool), HistoryError> {
        match Self::try_open(dir) {
            Ok(Some(history)) => Ok((history, false)),
            Ok(None) | Err(HistoryError::Damaged(_)) => Ok((Self::create(dir)?, true)),
            Err(error) => Err(error),
        }
    }

    /// Removes everything and begins anew.
    pub fn rebuild(self) -> Result<Self, HistoryError> {
        let Self { dir, db, .. } = self;
        drop(db);
        Self::create(&dir)
    }

    fn create(dir: &Path) -> Result<Self, HistoryError> {
        if dir.exists() {
            fs::remove_dir_all(dir).map_err(at("remove", dir))?;
        }
        match Self::try_open(dir)? {
            Some(history) => Ok(history),
            None => Err(HistoryError::Damaged("a new index has an old schema".to_owned())),
        }
    }

    /// `None`: of another schema.
    fn try_open(dir: &Path) -> Result<Option<Self>, HistoryError> {
        durable::create_dir(dir)?;
        contained(|| {
            let db = sled::Config::default().path(dir).cache_capacity(CACHE_BYTES).open()?;
            let schema = SCHEMA_VERSION.to_le_bytes();
            if db.is_empty() {
                db.insert(SCHEMA, &schema)?;
            }
            let known = db.get(SCHEMA)?.is_some_and(|found| *found == schema);
            Ok(known.then(|| Self { dir: dir.to_path_buf(), db, pending: Pending::default() }))
        })
    }

    /// The last block in it.
    pub fn tip(&self) -> Result<Option<Tip>, HistoryError> {
        if let Some(tip) = self.pending.tip() {
            return Ok(Some(tip));
        }
        let Some(bytes) = contained(|| self.db.get(TIP))? else { return Ok(None) };
        let parsed = bytes.split_first_chunk::<8>().and_then(|(height, hash)| {
            let height = Height::new(u64::from_le_bytes(*height));
            Some(Tip { height, block: BlockHash::from_bytes(hash.try_into().ok()?) })
        });
        parsed.map(Some).ok_or_else(|| damaged("its tip has a wrong length"))
    }

    /// Adds the next blocks, all or none. They are found at once, and written with later ones.
    pub fn add(&mut self, blocks: &[IndexedBlock]) -> Result<(), HistoryError> {
        let mut expected = self.tip()?.map(|tip| tip.height.plus(1));
        for block in blocks {
            let found = block.at.height;
            if let Some(expected) = expected.filter(|expected| *expected != found) {
                return Err(HistoryError::OutOfOrder { found, expected });
            }
            expected = Some(found.plus(1));
        }
        blocks.iter().for_each(|block| self.pending.add(block));
        if self.pending.is_full() { self.write() } else { Ok(()) }
    }

    /// Writes what was gathered, so that the next start need not read those blocks again.
    pub fn write(&mut self) -> Result<(), HistoryError> {
        if let Some(batch) = self.pending.batch() {
            contained(|| self.db.apply_batch(batch))?;
            self.pending = Pending::default();
        }
        Ok(())
    }

    /// Where a transaction is.
    pub fn transaction(&self, hash: &TransactionHash) -> Result<Option<Position>, HistoryError> {
        if let Some(at) = self.pending.transaction(hash) {
            return Ok(Some(at));
        }
        let (part, rest) = part_of(hash);
        // People ask for what is new more often than for what is old.
        let mut chunks = self.db.scan_prefix(keyed(TRANSACTION, &[&[part]]));
        while let Some((_, page)) = contained(|| chunks.next_back().transpose())? {
            if let Some(at) = page::find(&page, rest)? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// Height of the block with this hash.
    pub fn block(&self, hash: &BlockHash) -> Result<Option<Height>, HistoryError> {
        if let Some(height) = self.pending.block(hash) {
            return Ok(Some(height));
        }
        let Some(bytes) = contained(|| self.db.get(keyed(BLOCK, &[hash.as_bytes()])))? else {
            return Ok(None);
        };
        let height = bytes.as_ref().try_into().map(u64::from_be_bytes);
        height.map(|h| Some(Height::new(h))).map_err(|_| damaged("a height has a wrong length"))
    }

    /// What a byte of a transaction cost at a height, if that was known when it was added.
    pub fn base_fee(&self, height: Height) -> Result<Option<Credits>, HistoryError> {
        if let Some(fee) = self.pending.base_fee(height) {
            return Ok(Some(fee));
        }
        let key = keyed(BASE_FEE, &[&height.get().to_be_bytes()]);
        let Some(bytes) = contained(|| self.db.get(key))? else { return Ok(None) };
        let fee = bytes.as_ref().try_into().map(u64::from_le_bytes);
        fee.map(|f| Some(Credits::from_micro(f))).map_err(|_| damaged("a fee has a wrong length"))
    }

    /// Where an account's transactions are, newest first: those before `before`, or the newest.
    /// At most `limit` and [`PAGE_MAX`].
    pub fn of_account(
        &self,
        account: &AccountId,
        before: Option<Position>,
        limit: usize,
    ) -> Result<Vec<Position>, HistoryError> {
        let limit = limit.min(PAGE_MAX);
        let is_before = |at: &Position| before.is_none_or(|before| *at < before);
        let gathered = self.pending.of_account(account).iter().rev().copied();
        let mut found: Vec<Position> = gathered.filter(is_before).take(limit).collect();
        let first = keyed(ACCOUNT, &[account.as_bytes()]);
        let end = keyed(ACCOUNT, &[account.as_bytes(), &[0xff; 13]]);
        // The page in which `before` lies is the first that ends at it or later.
        let end = match before {
            None => end,
            Some(before) => {
                let at = keyed(ACCOUNT, &[account.as_bytes(), &position_bytes(before)]);
                let around = contained(|| self.db.range(at..end.clone()).next().transpose())?;
                match around {
                    Some((key, _)) => [key.as_ref(), &[0]].concat(),
                    None => end,
                }
            }
        };
        let mut pages = self.db.range(first..end);
        while found.len() < limit
            && let Some((_, page)) = contained(|| pages.next_back().transpose())?
        {
            let older = page::positions(&page)?;
            found.extend(older.into_iter().rev().filter(is_before));
        }
        found.truncate(limit);
        Ok(found)
    }
}

fn keyed(family: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![family];
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

fn damaged(what: &str) -> HistoryError {
    HistoryError::Damaged(what.to_owned())
}

/// sled may panic on damaged files; an index for people must not end the node.
pub(crate) fn contained<T>(
    work: impl FnOnce() -> Result<T, sled::Error>,
) -> Result<T, HistoryError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| HistoryError::Damaged(error.to_string())),
        Err(_) => Err(damaged("reading it panicked")),
    }
}
