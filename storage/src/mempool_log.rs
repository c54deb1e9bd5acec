//! Pending transactions that this node has acknowledged, so that a restart does not lose them.
//!
//! Payload of a record: transactions, each with its length (u32 LE) before its bytes. What is no
//! longer pending is left out when the file is rewritten; the owner says what that is.
//!
//! Invariant: a transaction is durable when [`MempoolLog::append`] returned; a file that was cut or
//! damaged since is noticed. It ends with a mark for that; without one, as a crash or a program
//! older than the mark leaves it, its whole records are restored all the same.
//! Deliberately absent: checking transactions (they are verified again when they are restored),
//! and refusing a damaged file: the chain does not hang on it. The part before the damage is
//! restored and the file is moved aside.

use std::fs;
use std::path::{Path, PathBuf};

use protocol::ids::ChainId;
use protocol::limits;
use thiserror::Error;

use crate::durable::{self, FileError, at};
use crate::record::{LogKind, RecordError, RecordLog, TornTail};

/// Bytes of one record: what one request may bring, and the lengths.
const RECORD_BYTES_MAX: usize = 2 * limits::SUBMIT_BYTES_MAX;

/// Version of what a record means.
const SCHEMA: u8 = 1;

/// Why transactions were not stored.
#[derive(Debug, Error)]
pub enum MempoolLogError {
    /// The file cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What a log held when it was opened.
#[derive(Debug)]
pub struct Restored {
    /// Bytes of the transactions, in the order in which they were acknowledged.
    pub transactions: Vec<Vec<u8>>,
    /// Where a damaged file is now.
    pub damaged: Option<PathBuf>,
    /// What was cut off the end, or that the end was missing.
    pub torn: Option<TornTail>,
}

/// The log.
#[derive(Debug)]
pub struct MempoolLog {
    log: RecordLog,
}

impl MempoolLog {
    /// Opens or creates `mempool.log` in `dir`.
    pub fn open(dir: &Path, chain: &ChainId) -> Result<(Self, Restored), MempoolLogError> {
        let kind = LogKind {
            name: "mempool log",
            schema: SCHEMA,
            end_mark: true,
            chain: *chain,
            payload_bytes_max: RECORD_BYTES_MAX as u32,
        };
        let path = dir.join("mempool.log");
        let mut transactions = Vec::new();
        let opened = RecordLog::open(&path, kind, |_, payload| split(payload, &mut transactions));
        let (log, damaged, torn) = match opened {
            Ok((log, torn)) => (log, None, torn),
            Err(RecordError::Corrupt { .. } | RecordError::WrongFile { .. }) => {
                let aside = set_aside(dir, &path)?;
                (RecordLog::open(&path, kind, |_, _| {})?.0, Some(aside), None)
            }
            Err(error) => return Err(error.into()),
        };
        Ok((Self { log }, Restored { transactions, damaged, torn }))
    }

    /// Stores transactions. They are durable when this returns.
    pub fn append<'t>(
        &mut self,
        transactions: impl IntoIterator<Item = &'t [u8]>,
    ) -> Result<(), MempoolLogError> {
        for payload in join(transactions) {
            self.log.append(&payload)?;
        }
        Ok(self.log.sync()?)
    }

    /// Replaces everything by `transactions`, in one step and durably.
    pub fn rewrite<'t>(
        &mut self,
        transactions: impl IntoIterator<Item = &'t [u8]>,
    ) -> Result<(), MempoolLogError> {
        let payloads = join(transactions);
        Ok(self.log.rewrite(payloads.iter().map(Vec::as_slice))?)
    }

    /// Length of the file in bytes.
    pub fn bytes(&self) -> u64 {
        self.log.bytes()
    }
}

/// Payloads that hold the transactions, as few as may be.
fn join<'t>(transactions: impl IntoIterator<Item = &'t [u8]>) -> Vec<Vec<u8>> {
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    for bytes in transactions {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        let room = |payload: &Vec<u8>| payload.len() + bytes.len() + 4 <= RECORD_BYTES_MAX;
        let payload = match payloads.last_mut() {
            Some(last) if room(last) => last,
            _ => {
                payloads.push(Vec::new());
                payloads.last_mut().expect("just pushed")
            }
        };
        payload.extend_from_slice(&length);
        payload.extend_from_slice(bytes);
    }
    payloads
}

fn split(mut payload: &[u8], transactions: &mut Vec<Vec<u8>>) {
    while let Some((length, rest)) = payload.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        // Written by `join` and protected by a checksum: a short one is never there.
        let Some((bytes, rest)) = rest.split_at_checked(length) else { return };
        transactions.push(bytes.to_vec());
        payload = rest;
    }
}

fn set_aside(dir: &Path, path: &Path) -> Result<PathBuf, FileError> {
    let aside = (0_u32..)
        .map(|n| dir.join(format!("mempool.log.damaged-{n}")))
        .find(|candidate| !candidate.exists())
        .expect("fewer than 2^32 damaged logs lie in one directory");
    fs::rename(path, &aside).map_err(at("move aside", path))?;
    durable::sync_dir(dir)?;
    Ok(aside)
}
