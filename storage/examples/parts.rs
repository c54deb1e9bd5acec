//! Measures the inner loop of a transfer: encoding, verifying and writing the parts of a blob.
//!
//! ```sh
//! cargo build --release -p ayni-storage --example parts
//! taskset -c 1 target/release/examples/parts 1024
//! ```
//!
//! The argument is the blob's size in MiB; it stays in the page cache. Each step runs five times;
//! the processor time of the median is printed, in seconds per GiB: what the kernel does for the
//! program is in it.

#![expect(clippy::print_stdout, reason = "a program that prints its figures")]

use std::fs::File;
use std::hint::black_box;
use std::io::{BufWriter, Write};

use anyhow::{Context, Result, ensure};
use ayni_storage::BlobStore;
use ayni_storage::blobs::{BLOCK_SIZE, ServedBlob, bao_hash, decode_part, encode_part};
use bao_tree::io::BaoContentItem;
use bao_tree::io::sync::{DecodeResponseIter, encode_ranges_validated};
use bao_tree::{BaoTree, ChunkNum, ChunkRanges};
use protocol::blobs::{GroupRange, groups_of};
use protocol::limits::PART_GROUPS;

const ROUNDS: usize = 5;

/// Processor time of this process.
fn cpu_s() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn measure(name: &str, gib: f64, mut run: impl FnMut() -> Result<()>) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let before = cpu_s();
        run()?;
        times.push((cpu_s() - before) / gib);
    }
    times.sort_by(f64::total_cmp);
    let [first, .., last] = times[..] else { return Ok(()) };
    println!("{name:<44} {:.3} s/GiB ({first:.3} to {last:.3})", times[ROUNDS / 2]);
    Ok(())
}

fn parts(size: u64) -> impl Iterator<Item = GroupRange> {
    let groups = groups_of(size);
    (0..groups)
        .step_by(PART_GROUPS as usize)
        .filter_map(move |start| GroupRange::new(start, groups.min(start + PART_GROUPS)))
}

fn chunks(range: GroupRange) -> ChunkRanges {
    ChunkRanges::from(ChunkNum(range.start() * 16)..ChunkNum(range.end() * 16))
}

fn random_file(path: &std::path::Path, size: u64) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut stream = blake3::Hasher::new().finalize_xof();
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..size >> 20 {
        stream.fill(&mut buffer);
        file.write_all(&buffer)?;
    }
    file.flush()?;
    Ok(())
}

fn frames(blob: &ServedBlob) -> Result<Vec<(GroupRange, Vec<u8>)>> {
    parts(blob.size())
        .map(|range| {
            let mut frame = Vec::new();
            encode_part(blob, range, &mut frame)?;
            Ok((range, frame))
        })
        .collect()
}

fn main() -> Result<()> {
    let size: u64 = std::env::args().nth(1).context("give a size in MiB")?.parse::<u64>()? << 20;
    ensure!(size > 0, "give a size above 0");
    let gib = size as f64 / f64::from(1 << 30);
    let dir = tempfile::tempdir()?;
    let source = dir.path().join("random");
    random_file(&source, size)?;
    let store = BlobStore::open(dir.path())?;
    let hash = store.put_file(&source, size)?;
    let blob = store.open_for_serving(&hash)?;
    let tree = BaoTree::new(size, BLOCK_SIZE);

    let mut buffer = vec![0; 512 << 10];
    measure("read only", gib, || {
        let file = store.open_data(&hash)?;
        for at in (0..size).step_by(buffer.len()) {
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut buffer, at)?;
        }
        Ok(())
    })?;
    measure("hash only (512 KiB in cache, over and over)", gib, || {
        for _ in (0..size).step_by(buffer.len()) {
            black_box(blake3::hash(&buffer));
        }
        Ok(())
    })?;
    let mut frame = Vec::new();
    measure("encode_part", gib, || {
        parts(size).try_for_each(|range| Ok(encode_part(&blob, range, &mut frame)?))
    })?;
    measure("encode_part into a new buffer", gib, || {
        parts(size).try_for_each(|range| Ok(encode_part(&blob, range, &mut Vec::new())?))
    })?;
    measure("bao-tree's encoder", gib, || {
        for range in parts(size) {
            frame.clear();
            encode_ranges_validated(blob.data(), blob.outboard(), &chunks(range), &mut frame)?;
        }
        Ok(())
    })?;
    let mut frames = frames(&blob)?;
    measure("decode_part", gib, || {
        for (range, frame) in &mut frames {
            let part = decode_part(hash, size, *range, std::mem::take(frame))?;
            *frame = part.into_frame();
        }
        Ok(())
    })?;
    measure("bao-tree's decoder", gib, || {
        for (range, frame) in &frames {
            let ranges = chunks(*range);
            for item in DecodeResponseIter::new(bao_hash(&hash), tree, &frame[..], &ranges) {
                if let BaoContentItem::Leaf(leaf) = item? {
                    black_box(leaf.data);
                }
            }
        }
        Ok(())
    })?;
    let to = BlobStore::open(&dir.path().join("to"))?;
    measure("decode_part, write_part", gib, || receive(&to, &blob, &mut frames, usize::MAX))?;
    measure("the same, a checkpoint every 64 MiB", gib, || receive(&to, &blob, &mut frames, 128))?;
    Ok(())
}

/// Receives the whole blob, a checkpoint every so many parts, and discards it.
fn receive(
    to: &BlobStore,
    blob: &ServedBlob,
    frames: &mut [(GroupRange, Vec<u8>)],
    every: usize,
) -> Result<()> {
    let mut partial = to.partial(blob.hash(), blob.size())?;
    for (number, (range, frame)) in frames.iter_mut().enumerate() {
        let part = decode_part(blob.hash(), blob.size(), *range, std::mem::take(frame))?;
        partial.write_part(&part)?;
        *frame = part.into_frame();
        if number % every == every - 1 {
            partial.checkpoint().run()?;
        }
    }
    Ok(partial.discard()?)
}
