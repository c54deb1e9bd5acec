//! What is fuzzed: every file that storage reads. Each target takes any bytes and must neither
//! panic nor believe what was not written; `tests/it/fuzz.rs` replays the corpus in every test run.
//!
//! [`blobs`] puts any bytes in the place of each file of the blob store.
//!
//! Checksums stop random bytes before they reach a decoder, so [`logs`] also writes the bytes as
//! records of a good log, and damages that.

#![allow(dead_code, reason = "each program uses one target")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use ayni_storage::BlobStore;
use ayni_storage::blobs::{Bits, Pins, Reference};
use ayni_storage::record::{LogKind, RecordLog};
use ayni_storage::signer_guard::{self, Decision, GuardEntry, SignerGuard, Step};
use ayni_storage::snapshot::{Reader, Writer};
use ayni_storage::{BlockLog, MempoolLog, ProposalLog, block_log, proposal_log};
use protocol::amount::Height;
use protocol::block::DecidedBlock;
use protocol::codec::{self, Canonical};
use protocol::consensus::ProposalBody;
use protocol::ids::{BlockHash, ChainId};
use protocol::limits;

const CHAIN: ChainId = ChainId::from_bytes([7; 32]);
/// Records that are written; more say nothing new.
const RECORDS_MAX: usize = 16;

/// A snapshot of any bytes: what is accepted to its end is what a writer would write.
pub(crate) fn snapshot(bytes: &[u8]) {
    let Ok(mut reader) = Reader::new(bytes) else { return };
    let head = *reader.head();
    let mut writer = Writer::new(Vec::new(), head).expect("memory takes every byte");
    loop {
        match reader.next_entry() {
            Ok(Some((key, value))) => writer.entry(key, value).expect("what was read fits"),
            Ok(None) => break,
            // A reader that has failed is not asked again: it would go on in the middle.
            Err(_) => return,
        }
    }
    let Ok(read) = reader.finish() else { return };
    let (written, again) = writer.finish().expect("memory takes every byte");
    assert!(again == bytes, "a snapshot has one spelling");
    assert_eq!(read, written, "reader and writer agree on hash and sizes");
}

/// The owner of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Blocks,
    Proposals,
    Mempool,
    Guard,
}

impl Owner {
    const fn kind(self) -> LogKind {
        let (name, schema, end_mark, payload_bytes_max) = match self {
            Self::Blocks => ("block log", block_log::SCHEMA, false, DecidedBlock::BYTES_MAX + 40),
            Self::Proposals => {
                ("proposal log", proposal_log::SCHEMA, false, ProposalBody::BYTES_MAX)
            }
            Self::Mempool => ("mempool log", 1, false, 2 * limits::SUBMIT_BYTES_MAX),
            Self::Guard => ("signer guard", signer_guard::SCHEMA, true, 47),
        };
        let payload_bytes_max = payload_bytes_max as u32;
        LogKind { name, schema, chain: CHAIN, end_mark, payload_bytes_max }
    }

    fn path(self, dir: &Path) -> PathBuf {
        match self {
            Self::Blocks => dir.join(block_log::FOLDER).join(format!("{:020}.blocks", 1)),
            Self::Proposals => dir.join("proposals.log"),
            Self::Mempool => dir.join("mempool.log"),
            Self::Guard => dir.join("signed.log"),
        }
    }
}

/// How the first byte is read.
const RAW: u8 = 0x80;
const MENDED: u8 = 0x40;

/// A directory of one call.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("ayni-fuzz-{}-{call}", std::process::id()));
        fs::create_dir_all(path.join(block_log::FOLDER)).expect("a directory can be made");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Any file in the place of each log. The bytes are: whose log and how it is made, the kind of
/// damage, its place (2), its value, then the file itself or any number of (length u16, payload).
/// Says whether the log opened, and whether anything was cut off or set aside.
pub(crate) fn logs(bytes: &[u8]) -> Option<bool> {
    let ([how, damage, low, high, value], rest) = bytes.split_first_chunk::<5>()?;
    let owner = match how & 3 {
        0 => Owner::Blocks,
        1 => Owner::Proposals,
        2 => Owner::Mempool,
        _ => Owner::Guard,
    };
    let scratch = Scratch::new();
    let path = owner.path(&scratch.0);
    let place = usize::from(u16::from_le_bytes([*low, *high]));
    if how & RAW != 0 {
        fs::write(&path, rest).expect("the file can be written");
        return open(owner, &scratch.0, None);
    }
    let payloads = payloads(rest, owner, how & MENDED != 0);
    write(&path, owner.kind(), &payloads);
    let is_damaged = harm(&path, damage % 4, place, *value);
    if is_damaged {
        check_prefix(&path, owner.kind(), &payloads);
    }
    open(owner, &scratch.0, (!is_damaged).then_some(&payloads))
}

fn payloads(mut rest: &[u8], owner: Owner, is_mended: bool) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    if owner == Owner::Blocks && is_mended {
        payloads.push([1_u64.to_le_bytes().as_slice(), &[0; 32]].concat());
    }
    while payloads.len() < RECORDS_MAX
        && let Some((length, after)) = rest.split_first_chunk::<2>()
    {
        let length = usize::from(u16::from_le_bytes(*length)).min(after.len());
        let (part, next) = after.split_at(length);
        rest = next;
        let mut payload = part.to_vec();
        if owner == Owner::Blocks && is_mended {
            payload = block_record(part, payloads.len() as u64);
        }
        payload.truncate(owner.kind().payload_bytes_max as usize);
        payloads.push(payload);
    }
    payloads
}

/// The record of a block at the next height, whatever its body is.
fn block_record(body: &[u8], height: u64) -> Vec<u8> {
    let (block, body) = match codec::decode::<DecidedBlock>(body) {
        Ok(mut decided) => {
            decided.certificate.height = Height::new(height);
            (decided.certificate.block, codec::encode(&decided))
        }
        Err(_) => (BlockHash::default(), body.to_vec()),
    };
    [height.to_le_bytes().as_slice(), block.as_bytes(), &body].concat()
}

fn write(path: &Path, kind: LogKind, payloads: &[Vec<u8>]) {
    let (mut log, _) = RecordLog::open(path, kind, |_, _| {}).expect("a new log");
    for payload in payloads {
        log.append(payload).expect("a small record fits");
    }
    log.sync().expect("the file can be synced");
}

/// Damages a file; whether it is another one now.
fn harm(path: &Path, damage: u8, place: usize, value: u8) -> bool {
    let before = fs::read(path).expect("just written");
    let mut bytes = before.clone();
    let place = place % bytes.len();
    match damage {
        0 => return false,
        1 => bytes[place] ^= value,
        2 => bytes.truncate(place),
        _ => bytes.extend(std::iter::repeat_n(value, place % 100)),
    }
    fs::write(path, &bytes).expect("the file can be written");
    bytes != before
}

/// A damaged log is refused, or gives the first of what was written and nothing else.
fn check_prefix(path: &Path, kind: LogKind, written: &[Vec<u8>]) {
    let copy = path.with_extension("copy");
    fs::copy(path, &copy).expect("the file can be copied");
    let mut read = Vec::new();
    drop(RecordLog::open(&copy, kind, |_, payload| read.push(payload.to_vec())));
    fs::remove_file(&copy).expect("the copy can be removed");
    assert!(written.starts_with(&read), "something was read that was not written");
}

/// Opens the log as its owner does and reads all of it.
fn open(owner: Owner, dir: &Path, written: Option<&Vec<Vec<u8>>>) -> Option<bool> {
    match owner {
        Owner::Blocks => {
            let (log, torn) = BlockLog::open(dir, &CHAIN).ok()?;
            let tip = log.tip()?;
            for height in 1..=tip.height.get().min(RECORDS_MAX as u64) {
                if let Ok(Some(block)) = log.get(Height::new(height)) {
                    assert_eq!(block.certificate.height.get(), height, "a block is in its place");
                }
            }
            drop(log.check());
            Some(torn.is_some())
        }
        Owner::Proposals => {
            let (mut log, torn) = ProposalLog::open(dir, &CHAIN).ok()?;
            for payload in written.into_iter().flatten() {
                let body: ProposalBody = codec::decode(payload).expect("an opened log decodes");
                let found = log.find(body.offer.height, &body.offer.block);
                assert!(found.is_ok_and(|found| found.is_some()), "a body is found again");
            }
            log.prune(Height::new(1)).expect("an opened log can be pruned");
            Some(torn.is_some())
        }
        Owner::Mempool => {
            let (mut log, restored) = MempoolLog::open(dir, &CHAIN).ok()?;
            let all = restored.transactions.iter().map(Vec::as_slice);
            log.rewrite(all).expect("what was restored can be written");
            drop(log);
            let (_, again) = MempoolLog::open(dir, &CHAIN).expect("just written");
            assert_eq!(again.transactions, restored.transactions, "a rewrite keeps everything");
            Some(restored.damaged.is_some())
        }
        Owner::Guard => {
            let (guard, torn) = SignerGuard::open(&owner.path(dir), &CHAIN).ok()?;
            for entry in written.into_iter().flatten().filter_map(|payload| signed(payload)) {
                let other = BlockHash::from_bytes([0xee; 32]);
                let value = if entry.value == Some(other) { None } else { Some(other) };
                let both = [guard.check(&entry), guard.check(&GuardEntry { value, ..entry })];
                let signs = both.iter().filter(|said| matches!(said, Ok(Decision::Sign))).count();
                assert!(signs < 2, "the guard signs two things: {entry:?}");
            }
            Some(torn.is_some())
        }
    }
}

/// What a record of the guard says was signed.
fn signed(payload: &[u8]) -> Option<GuardEntry> {
    let ([1], rest) = payload.split_first_chunk::<1>()? else { return None };
    let (height, rest) = rest.split_first_chunk::<8>()?;
    let (round, rest) = rest.split_first_chunk::<4>()?;
    let (step, rest) = rest.split_first()?;
    let step = [Step::Proposal, Step::Prevote, Step::Precommit].get(usize::from(*step)).copied()?;
    let value = match rest.len() {
        0 => None,
        _ => Some(BlockHash::from_bytes(rest.try_into().ok()?)),
    };
    let (height, round) = (Height::new(u64::from_le_bytes(*height)), u32::from_le_bytes(*round));
    Some(GuardEntry { height, round, step, value })
}

/// Makes the checksum at the end of a file right.
fn mended(body: &[u8]) -> Vec<u8> {
    let checksum = blake3::hash(body);
    [body, checksum.as_bytes()].concat()
}

/// Any file in the place of those of the blob store. The first byte says which, and whether its
/// checksum is made right; of small blobs, the next two say how long the index is.
pub(crate) fn blobs(bytes: &[u8]) {
    let Some((how, rest)) = bytes.split_first() else { return };
    let file = if how & MENDED != 0 { mended(rest) } else { rest.to_vec() };
    match how & 3 {
        0 => {
            if let Some(bits) = Bits::decode(&file) {
                assert_eq!(bits.encode(), file, "claims have one spelling");
            }
        }
        1 => {
            if let Some(reference) = Reference::decode(&file) {
                assert_eq!(reference.encode(), file, "a reference has one spelling");
            }
        }
        2 => {
            let salvaged = Pins::salvage(&file);
            if let Some(pins) = Pins::decode(&file) {
                assert_eq!(pins, salvaged, "all of a good file can be salvaged");
                assert_eq!(Pins::decode(&pins.encode()), Some(pins), "what is read can be written");
            }
        }
        _ => small_blobs(rest),
    }
}

/// Any index and any data of small blobs: what can be read is what its hash says, also by a store
/// that is opened again.
fn small_blobs(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
    let (index, data) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
    let scratch = Scratch::new();
    let folder = scratch.0.join("blobs/small");
    fs::create_dir_all(&folder).expect("a directory can be made");
    fs::write(folder.join("00000000.index"), index).expect("the file can be written");
    fs::write(folder.join("00000000.data"), data).expect("the file can be written");
    let mut before = None;
    for _ in 0..2 {
        let store = BlobStore::open(&scratch.0).expect("any segment opens");
        for (hash, _) in store.list() {
            // Checked against the hash: it is right or refused.
            drop(store.read_all(&hash, u64::MAX));
        }
        let all = store.list();
        assert!(before.is_none_or(|before| before == all), "the same is found again");
        before = Some(all);
    }
    let store = BlobStore::open(&scratch.0).expect("any segment opens");
    let hash = store.put_bytes(b"one more").expect("it takes blobs");
    drop(store);
    let store = BlobStore::open(&scratch.0).expect("any segment opens");
    assert!(store.read_all(&hash, 8).is_ok_and(|bytes| bytes == b"one more"), "and keeps them");
}
