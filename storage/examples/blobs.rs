//! Measures the blob store with many small files, one large file, and a million blobs.
//!
//! ```sh
//! cargo run --release -p ayni-storage --example blobs -- files 10000
//! cargo run --release -p ayni-storage --example blobs -- sparse 10
//! cargo run --release -p ayni-storage --example blobs -- many 1000000
//! ```
//!
//! `files`: so many files of 10 KiB, imported as a folder and exported, and received blob by blob
//! in batches. `sparse`: a file of so many GiB, nearly all zeros, imported and exported. `many`:
//! so many blobs of 100 bytes, stored in batches; then how long the store takes to open.

#![expect(clippy::print_stdout, reason = "a program that prints its figures")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ayni_storage::BlobStore;
use ayni_storage::blobs::{FolderOptions, VerifiedBlob, decode_part, encode_part};
use protocol::blobs::all_groups;

/// Blobs of one batch, as a fetch of small blobs has them.
const BATCH: usize = 256;

/// A line of `/proc/self/status`, in MiB: `VmHWM` is the peak, `VmRSS` what it is now.
fn memory_mib(line: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let found = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
    let kib = found.and_then(|rest| rest.trim().strip_suffix(" kB")).context("no such line")?;
    Ok(kib.trim().parse::<u64>()? / 1024)
}

fn random(seed: usize, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn files(dir: &Path, count: usize) -> Result<()> {
    let folder = dir.join("in");
    fs::create_dir(&folder)?;
    for number in 0..count {
        let sub = folder.join(format!("{:03}", number / 100));
        fs::create_dir_all(&sub)?;
        fs::write(sub.join(format!("{number}.bin")), random(number, 10 << 10))?;
    }
    let store = BlobStore::open(&dir.join("a"))?;
    let start = Instant::now();
    let (imported, report) =
        store.import_folder(&folder, &FolderOptions::default(), &mut |_| true)?;
    println!("import of {} files: {:.2} s", report.files, start.elapsed().as_secs_f64());
    let collection = store.stored_collection(&imported.hash)?.context("a collection")?;
    let start = Instant::now();
    store.export(&collection, &dir.join("out"), false, &mut |_| true)?;
    println!("export: {:.2} s", start.elapsed().as_secs_f64());

    let to = BlobStore::open(&dir.join("b"))?;
    let start = Instant::now();
    let mut batch = Vec::new();
    for chunk in collection.chunks() {
        let served = store.open_for_serving(&chunk.hash)?;
        let (mut frame, all) = (Vec::new(), all_groups(chunk.bytes));
        encode_part(&served, all, &mut frame)?;
        let part = decode_part(chunk.hash, chunk.bytes, all, frame)?;
        batch.push(VerifiedBlob::from_parts(vec![part])?);
        if batch.len() == BATCH {
            to.put_batch(&batch)?;
            batch.clear();
        }
    }
    to.put_batch(&batch)?;
    let seconds = start.elapsed().as_secs_f64();
    println!("encoded, verified, stored {} blobs at a time: {seconds:.2} s", BATCH);
    Ok(())
}

fn sparse(dir: &Path, gib: u64) -> Result<()> {
    let folder = dir.join("in");
    fs::create_dir(&folder)?;
    let file = File::create(folder.join("sparse"))?;
    file.set_len(gib << 30)?;
    for at in 0..gib {
        file.write_all_at(&random(at as usize, 1 << 20), (at << 30) + 12_345)?;
    }
    let store = BlobStore::open(&dir.join("store"))?;
    let before = memory_mib("VmHWM")?;
    for chunked in [true, false] {
        let options = FolderOptions { chunked, ..FolderOptions::default() };
        let start = Instant::now();
        let (imported, report) = store.import_folder(&folder, &options, &mut |_| true)?;
        println!(
            "import of {gib} GiB, chunked {chunked}: {:.1} s, {} chunks, {} new bytes",
            start.elapsed().as_secs_f64(),
            report.chunks,
            report.new_bytes
        );
        let collection = store.stored_collection(&imported.hash)?.context("a collection")?;
        let start = Instant::now();
        let exported = store.export(&collection, &dir.join("out"), true, &mut |_| true)?;
        println!(
            "export: {:.1} s, {} bytes of it zeros",
            start.elapsed().as_secs_f64(),
            exported.sparse_bytes
        );
        fs::remove_dir_all(dir.join("out"))?;
    }
    println!("peak memory: {} MiB, {before} MiB before", memory_mib("VmHWM")?);
    Ok(())
}

fn many(dir: &Path, count: usize) -> Result<()> {
    let store = BlobStore::open(dir)?;
    let start = Instant::now();
    for first in (0..count).step_by(8_192) {
        let seeds = first..count.min(first + 8_192);
        let batch: Vec<_> = seeds.map(|seed| VerifiedBlob::of(random(seed, 100))).collect();
        store.put_batch(&batch)?;
    }
    println!("{count} blobs of 100 bytes stored: {:.1} s", start.elapsed().as_secs_f64());
    drop(store);
    // Opened by a fresh process, whose memory is that of the store.
    let program = std::env::current_exe()?;
    let status = std::process::Command::new(program).arg("open").arg(dir).status()?;
    anyhow::ensure!(status.success(), "the other process failed: {status}");
    Ok(())
}

fn open(dir: &Path) -> Result<()> {
    let before = memory_mib("VmRSS")?;
    let start = Instant::now();
    let store = BlobStore::open(dir)?;
    let seconds = start.elapsed().as_secs_f64();
    let (now, peak) = (memory_mib("VmRSS")?, memory_mib("VmHWM")?);
    let count = store.list().len();
    println!("{count} blobs opened: {seconds:.2} s, {} MiB, peak {peak} MiB", now - before);
    let start = Instant::now();
    let report = store.gc(0, store.list().into_iter().map(|(hash, _)| hash).take(1_000))?;
    let seconds = start.elapsed().as_secs_f64();
    println!("garbage: {} of {} removed in {seconds:.2} s", report.removed, report.blobs);
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().context("say files, sparse or many")?;
    let argument = arguments.next().context("say how many")?;
    if what == "open" {
        return open(Path::new(&argument));
    }
    let dir = tempfile::tempdir()?;
    match what.as_str() {
        "files" => files(dir.path(), argument.parse()?),
        "sparse" => sparse(dir.path(), argument.parse()?),
        "many" => many(dir.path(), argument.parse()?),
        other => bail!("{other}: say files, sparse or many"),
    }
}
