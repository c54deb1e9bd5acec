//! Content-addressed files with the hash tree that lets their parts be verified.
//!
//! ```text
//! DIR/blobs/ab/abcd...ef.data     the bytes; the name is their BLAKE3
//! DIR/blobs/ab/abcd...ef.obao4    hash tree in post order over 16 KiB groups, without a length;
//!                                 absent for a blob of one group
//! DIR/blobs/small/N.data, .index  blobs of at most one group, many to a file
//! DIR/blobs/partial/abcd...ef.*   blobs that arrive: data, hash tree, and what was verified
//! DIR/blobs/refs/abcd...ef.*      references to files of the user, and their hash trees
//! DIR/blobs/pins                  names and pins
//! DIR/blobs/tmp/                  unfinished; emptied when the store is opened
//! ```
//!
//! **Invariant.** A blob that is listed has the hash that its name says: bytes are hashed, or
//! verified group by group as they arrive, and synced, before they get their name. Acknowledged is
//! durable.
//!
//! | For | See |
//! |---|---|
//! | sending and receiving | [`encode_part`], [`decode_part`], [`PartialBlob`], [`VerifiedBlob`] |
//! | importing and exporting | [`BlobStore::import`], [`BlobStore::import_folder`], [`Importer`] |
//! | what is kept | [`BlobStore::pin`], [`BlobStore::hold`], [`BlobStore::gc`], [`BlobLimits`] |
//! | damage | [`BlobStore::verify`], [`BlobStore::fsck`] |
//!
//! Deliberately absent: the network, a clock, and protection against a disk that changes bytes
//! later: a check, and every serving and copying operation, finds that.
//!
//! # Sending and receiving over an async stream, whole and in order
//!
//! Both ends use `bao_tree::io::fsm`; the size travels before the encoding.
//!
//! ```
//! use ayni_storage::blobs::{BLOCK_SIZE, BlobStore, PartialBlob, bao_hash};
//! use bao_tree::io::BaoContentItem;
//! use bao_tree::io::fsm::{ResponseDecoder, ResponseDecoderNext, encode_ranges_validated};
//! use bao_tree::{BaoTree, ChunkRanges};
//! use iroh_io::{TokioStreamReader, TokioStreamWriter};
//! use protocol::ids::ContentHash;
//! use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
//!
//! async fn send<W: AsyncWrite + Unpin>(
//!     store: &BlobStore,
//!     hash: ContentHash,
//!     mut stream: W,
//! ) -> anyhow::Result<()> {
//!     let blob = store.open_for_serving(&hash)?;
//!     stream.write_u64_le(blob.size()).await?;
//!     let ranges = ChunkRanges::all();
//!     let writer = TokioStreamWriter(&mut stream);
//!     encode_ranges_validated(blob.data(), blob.outboard(), &ranges, writer).await?;
//!     stream.shutdown().await?;
//!     Ok(())
//! }
//!
//! async fn receive<R: AsyncRead + Unpin>(
//!     store: &BlobStore,
//!     hash: ContentHash,
//!     max_size: u64,
//!     mut stream: R,
//! ) -> anyhow::Result<u64> {
//!     let size = stream.read_u64_le().await?;
//!     // Refuses a size over the limit before anything is read.
//!     let mut partial = store.create_partial(hash, size, max_size)?;
//!     let tree = BaoTree::new(size, BLOCK_SIZE);
//!     let reader = TokioStreamReader::new(stream);
//!     let mut decoder =
//!         ResponseDecoder::new(bao_hash(&hash), ChunkRanges::all(), tree, reader);
//!     // An error ends it: the partial blob is dropped, its file removed, the sender penalised.
//!     while let ResponseDecoderNext::More((next, item)) = decoder.next().await {
//!         if let BaoContentItem::Leaf(leaf) = item? {
//!             partial.write_verified(leaf.offset, &leaf.data)?;
//!         }
//!         decoder = next;
//!     }
//!     Ok(partial.finish()?)
//! }
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
//! # let (a, b) = (tempfile::tempdir()?, tempfile::tempdir()?);
//! # let (from, to) = (BlobStore::open(a.path())?, BlobStore::open(b.path())?);
//! # let hash = from.put_bytes(&vec![7; 100_000])?;
//! # runtime.block_on(async {
//! #     let (ours, theirs) = tokio::io::duplex(4096);
//! #     let (sent, received) =
//! #         tokio::join!(send(&from, hash, ours), receive(&to, hash, 1 << 20, theirs));
//! #     sent?;
//! #     anyhow::ensure!(received? == 100_000);
//! #     anyhow::Ok(())
//! # })?;
//! # assert!(to.contains(&hash));
//! # anyhow::Ok(())
//! ```
//!
//! For a part, both sides name the same `ChunkRanges` (`bao_tree::io::round_up_to_chunks`).

mod attached;
mod batch;
mod error;
mod file;
mod folders;
mod fsck;
mod gc;
mod holds;
mod import;
mod in_place;
mod index;
mod outboard;
mod part;
mod partial;
mod pins;
mod read;
mod received;
mod serve;
mod small;
mod start;
mod store;
mod tree;

use bao_tree::BlockSize;
use protocol::ids::ContentHash;
use protocol::limits;

pub use batch::VerifiedBlob;
pub use error::BlobError;
pub use file::BlobFile;
pub use folders::{ExportReport, FolderOptions, FolderReport};
pub use fsck::FsckReport;
pub use gc::GcReport;
pub use holds::Hold;
pub use import::{ImportMode, Imported, Importer, Progress, Stored};
pub use in_place::Reference;
pub use part::{EncodeError, Frame, PartError, VerifiedPart, decode_part, encode_part, part_bytes};
pub use partial::bits::Bits;
pub use partial::{Checkpoint, PartialBlob, PartialStatus};
pub use pins::{NAME_BYTES_MAX, Name, PINS_MAX, Pins, Retention};
pub use read::Verification;
pub use received::WholeBlob;
pub use serve::ServedBlob;
pub use store::{BlobLimits, BlobStore};

/// Bytes that are verified together: 16 KiB. Both ends of a transfer must agree on it.
pub const BLOCK_SIZE: BlockSize = BlockSize::from_chunk_log(limits::CHUNK_GROUP_LOG);

/// A content hash as bao-tree spells it.
pub const fn bao_hash(hash: &ContentHash) -> bao_tree::blake3::Hash {
    bao_tree::blake3::Hash::from_bytes(*hash.as_bytes())
}
