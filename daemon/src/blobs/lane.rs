//! One stream to a provider, while it is asked for something.
//!
//! Invariant: what leaves a lane as a [`VerifiedPart`] or [`VerifiedBlob`] led up to the hash; what
//! does not ends the lane as a lie. Frames are read into buffers that are used again; verifying and
//! writing happen on blocking threads while the next frame arrives.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite};
use protocol::blobs::wire::{BlobRequest, GetItem, Holdings, ItemHead, Want, parts};
use protocol::blobs::{GroupRange, GroupRanges};
use protocol::ids::ContentHash;
use protocol::limits;
use storage::BlobError;
use storage::blobs::{PartError, VerifiedBlob, VerifiedPart, decode_part, part_bytes};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::error::Failure;
use super::wire::{fill, read_value, write_value};

/// A slow provider's progress is looked at after so many bytes.
const PIECE_BYTES: usize = 64 * 1024;
/// And told to the schedule so often.
const TELL_INTERVAL: Duration = Duration::from_millis(500);

/// Deadlines of a lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Until the answer to a request begins.
    pub(super) answer_max: Duration,
    /// Without a byte, once it has begun.
    pub(super) stall_max: Duration,
}

/// What the first look at a blob gave.
#[derive(Debug)]
pub(super) enum Started {
    /// All of it.
    Whole(VerifiedBlob),
    /// It is larger: its length, proven by its last group.
    Large { size: u64, last: Part },
}

/// A verified part in a buffer that can be used again.
pub(super) type Part = VerifiedPart<Vec<u8>>;

/// Where verified parts of a large blob go.
pub(super) trait Sink: Clone + Send + 'static {
    /// Writes one part; called on a blocking thread.
    fn write(&self, part: &Part, room: OwnedSemaphorePermit) -> Result<(), BlobError>;
    /// Whether the part is still wanted from this lane.
    fn wants(&self, part: GroupRange) -> Wish;
    /// Says that bytes of a part are arriving.
    fn progress(&self) -> impl Future<Output = ()> + Send;
    /// Waits for room for a part among what is not yet synced.
    fn room(&self, part: GroupRange) -> impl Future<Output = Option<OwnedSemaphorePermit>> + Send;
    /// Says that a part was written.
    fn written(&self, part: GroupRange) -> impl Future<Output = ()> + Send;
}

/// What becomes of the next part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// It is verified and written.
    Keep,
    /// It is passed over: a later one is wanted.
    Skip,
    /// Neither it nor a later one is wanted any more.
    Stop,
}

/// How a lane ended early.
#[derive(Debug)]
pub(super) enum Broke {
    /// The provider's doing, or its connection's.
    Provider(Failure),
    /// Our own disk's.
    Store(BlobError),
}

impl From<Failure> for Broke {
    fn from(failure: Failure) -> Self {
        Self::Provider(failure)
    }
}

/// How a request for ranges ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Everything arrived: the stream can be used again.
    Complete,
    /// What was left of it is not wanted any more: the stream must be dropped.
    Shortened,
}

/// A part that is being verified and written, and gives its buffer back.
type Writing = (GroupRange, JoinHandle<Result<Vec<u8>, Broke>>);

/// A stream and what is needed to use it.
pub(super) struct Lane<S> {
    stream: S,
    patience: Patience,
    tracker: TaskTracker,
    spare: Vec<u8>,
    answered: Option<Arc<AtomicBool>>,
    reused: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Lane<S> {
    pub(super) fn new(stream: S, reused: bool, patience: Patience, tracker: TaskTracker) -> Self {
        Self { stream, patience, tracker, spare: Vec::new(), answered: None, reused }
    }

    /// Whether a request failed only because the stream was a used one that the peer had closed.
    pub(super) fn was_stale(&self, failure: &Failure) -> bool {
        self.reused && matches!(failure, Failure::NoAnswer(_))
    }

    /// Sets the flag when an answer begins.
    pub(super) fn tell_when_answered(&mut self, flag: Arc<AtomicBool>) {
        self.answered = Some(flag);
    }

    /// The stream, for the next request.
    pub(super) fn into_stream(self) -> S {
        self.stream
    }

    /// Asks which groups of these blobs are there.
    pub(super) async fn have(&mut self, hashes: &[ContentHash]) -> Result<Holdings, Failure> {
        self.send(&BlobRequest::Have(hashes.to_vec())).await?;
        let holdings: Holdings = self.answer().await?;
        if holdings.as_slice().len() != hashes.len() {
            return Err(Failure::Malformed("an answer for other blobs".to_owned()));
        }
        Ok(holdings)
    }

    /// Asks for several blobs, from their last group on; [`Lane::started`] reads them in order.
    pub(super) async fn start(
        &mut self,
        hashes: impl IntoIterator<Item = ContentHash>,
        whole_groups_max: u32,
    ) -> Result<(), Failure> {
        let want = Want::Start { whole_groups_max };
        let items = hashes.into_iter().map(|hash| GetItem { hash, want: want.clone() });
        self.send(&BlobRequest::Get(items.collect())).await
    }

    /// The next blob of [`Lane::start`]. A size over `bytes_max` is believed only once proven, and
    /// then ends as [`Started::Large`].
    pub(super) async fn started(
        &mut self,
        hash: ContentHash,
        whole_groups_max: u32,
    ) -> Result<Started, Failure> {
        let size = self.head().await?;
        let want = Want::Start { whole_groups_max };
        let mut verified = Vec::new();
        for part in parts(&want, size) {
            let frame = self.part(size, part).await?;
            let decode = move || decode_part(hash, size, part, frame);
            let decoded = blocking(&self.tracker, decode).await?;
            verified.push(decoded?);
        }
        let is_whole = protocol::blobs::groups_of(size) <= u64::from(whole_groups_max).max(1);
        if is_whole {
            let whole = VerifiedBlob::from_parts(verified);
            return whole.map(Started::Whole).map_err(|error| Failure::Broken(error.to_string()));
        }
        match verified.pop() {
            Some(last) => Ok(Started::Large { size, last }),
            None => Err(Failure::Malformed("no last group".to_owned())),
        }
    }

    /// Asks for one blob, from its last group on.
    pub(super) async fn look(
        &mut self,
        hash: ContentHash,
        whole_groups_max: u32,
    ) -> Result<Started, Failure> {
        self.start([hash], whole_groups_max).await?;
        self.started(hash, whole_groups_max).await
    }

    /// Asks for ranges of a blob whose size is proven, and gives every verified part to the sink.
    pub(super) async fn ask(
        &mut self,
        hash: ContentHash,
        size: u64,
        ranges: GroupRanges,
        sink: &impl Sink,
    ) -> Result<Asked, Broke> {
        let want = Want::Ranges(ranges);
        let item = GetItem { hash, want: want.clone() };
        self.send(&BlobRequest::Get(vec![item])).await?;
        if self.head().await? != size {
            return Err(Failure::Malformed("another size than the proven one".to_owned()).into());
        }
        let mut writing = None;
        let mut shortened = false;
        for part in parts(&want, size) {
            let wish = sink.wants(part);
            if wish == Wish::Stop {
                shortened = true;
                break;
            }
            let frame = self.part_of(size, part, sink).await?;
            if wish == Wish::Skip {
                self.spare = frame;
                continue;
            }
            self.finish(&mut writing, sink).await?;
            let Some(room) = sink.room(part).await else { return Ok(Asked::Shortened) };
            let target = sink.clone();
            writing = Some((
                part,
                self.tracker.spawn_blocking(move || {
                    let verified = decode_part(hash, size, part, frame)
                        .map_err(|error| Broke::Provider(error.into()))?;
                    target.write(&verified, room).map_err(Broke::Store)?;
                    Ok(verified.into_frame())
                }),
            ));
        }
        self.finish(&mut writing, sink).await?;
        Ok(if shortened { Asked::Shortened } else { Asked::Complete })
    }

    /// Waits for the part that is being verified and written.
    async fn finish(
        &mut self,
        writing: &mut Option<Writing>,
        sink: &impl Sink,
    ) -> Result<(), Broke> {
        let Some((part, task)) = writing.take() else { return Ok(()) };
        self.spare = task.await.map_err(|error| Failure::Broken(error.to_string()))??;
        sink.written(part).await;
        Ok(())
    }

    async fn send(&mut self, request: &BlobRequest) -> Result<(), Failure> {
        let sent = write_value(&mut self.stream, request, self.patience.answer_max).await;
        sent.map_err(|error| Failure::NoAnswer(error.to_string()))
    }

    /// The first value of an answer.
    async fn answer<V: protocol::codec::Canonical>(&mut self) -> Result<V, Failure> {
        let max = self.patience.answer_max;
        match timeout(max, read_value(&mut self.stream, max)).await {
            Err(_) => Err(Failure::NoAnswer("timed out".to_owned())),
            Ok(Ok(None)) => Err(Failure::NoAnswer("stream closed".to_owned())),
            Ok(Ok(Some(value))) => Ok(value),
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                Err(Failure::Malformed(error.to_string()))
            }
            Ok(Err(error)) => Err(Failure::NoAnswer(error.to_string())),
        }
    }

    /// The size that the provider claims.
    async fn head(&mut self) -> Result<u64, Failure> {
        let head = self.answer().await?;
        if let Some(flag) = &self.answered {
            flag.store(true, Ordering::Relaxed);
        }
        match head {
            ItemHead::Found { size } if size <= limits::BLOB_BYTES_MAX => Ok(size),
            ItemHead::Found { size } => Err(Failure::Malformed(format!("a blob of {size} bytes"))),
            ItemHead::Missing => Err(Failure::Missing),
            ItemHead::Absent => Err(Failure::Absent),
            ItemHead::Busy => Err(Failure::Busy),
        }
    }

    /// The next part's bytes, unverified.
    async fn part(&mut self, size: u64, part: GroupRange) -> Result<Vec<u8>, Failure> {
        let mut buffer = self.buffer(size, part)?;
        self.fill(&mut buffer).await?;
        Ok(buffer)
    }

    /// As [`Lane::part`], telling the sink when a slow provider makes progress.
    async fn part_of(
        &mut self,
        size: u64,
        part: GroupRange,
        sink: &impl Sink,
    ) -> Result<Vec<u8>, Failure> {
        let mut buffer = self.buffer(size, part)?;
        let mut told = Instant::now();
        for piece in buffer.chunks_mut(PIECE_BYTES) {
            self.fill(piece).await?;
            if told.elapsed() >= TELL_INTERVAL {
                sink.progress().await;
                told = Instant::now();
            }
        }
        Ok(buffer)
    }

    fn buffer(&mut self, size: u64, part: GroupRange) -> Result<Vec<u8>, Failure> {
        let Some(length) = part_bytes(size, part) else {
            return Err(Failure::Malformed("groups beyond the end".to_owned()));
        };
        let mut buffer = std::mem::take(&mut self.spare);
        buffer.resize(length, 0);
        Ok(buffer)
    }

    async fn fill(&mut self, target: &mut [u8]) -> Result<(), Failure> {
        match fill(&mut self.stream, target, self.patience.stall_max).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::Broken("it ended early".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(Failure::Stalled),
            Err(error) => Err(Failure::Broken(error.to_string())),
        }
    }
}

async fn blocking<T: Send + 'static>(
    tracker: &TaskTracker,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    // Only at shutdown, or after a panic that was logged.
    tracker.spawn_blocking(work).await.map_err(|error| Failure::Broken(error.to_string()))
}

impl From<PartError> for Failure {
    fn from(error: PartError) -> Self {
        match error {
            PartError::Lied { .. } => Self::Lied(error.to_string()),
            PartError::Malformed { .. } | PartError::OutOfBounds { .. } => {
                Self::Malformed(error.to_string())
            }
        }
    }
}
