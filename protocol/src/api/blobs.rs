//! Blobs: adding, fetching, keeping and removing them.
//!
//! Paths of files are honoured for the daemon's own user only; everybody else who may operate the
//! node sends bytes (`POST /v1/data/upload`). Deliberately absent: contents. What a blob holds is
//! written to a path or read by the node, never put into JSON.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::{ContentHash, NodeId};

/// Blobs in one page of a list, unless the query says less; also the most.
pub const BLOBS_PAGE_MAX: u32 = 1_000;
/// Files of a collection that are told unless the query says otherwise.
pub const FILES_SHOWN: u32 = 1_000;
/// Providers that a fetch may be told to ask first: more than would be asked at once.
pub const PROVIDERS_NAMED_MAX: usize = 32;
/// Bytes of a pin's name.
pub const PIN_NAME_BYTES_MAX: usize = 128;
/// The longest lease of a pin, in seconds: a hundred years. For ever is no lease.
pub const LEASE_MAX_S: u64 = 100 * 366 * 86_400;
/// Files or problems that a result lists by name; the rest is counted.
pub const LISTED_MAX: usize = 100;

/// Not the name of a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a pin's name has 1 to {PIN_NAME_BYTES_MAX} characters of a-z A-Z 0-9 . - _ : /")]
pub struct PinNameError;

/// The name of a pin: needs no escaping in a URL or a shell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct PinName(String);

impl PinName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PinName {
    type Error = PinNameError;

    fn try_from(text: String) -> Result<Self, PinNameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:/".contains(&byte);
        let fits = (1..=PIN_NAME_BYTES_MAX).contains(&text.len());
        if fits && text.bytes().all(allowed) { Ok(Self(text)) } else { Err(PinNameError) }
    }
}

impl FromStr for PinName {
    type Err = PinNameError;

    fn from_str(text: &str) -> Result<Self, PinNameError> {
        text.to_owned().try_into()
    }
}

impl From<ContentHash> for PinName {
    /// What keeps a blob when nobody names it.
    fn from(hash: ContentHash) -> Self {
        Self(hash.to_string())
    }
}

impl fmt::Display for PinName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a file comes into the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddMode {
    /// Its bytes are copied.
    #[default]
    Copy,
    /// The file system shares its blocks where it can; else its bytes are copied.
    Reflink,
    /// It stays where it is, and must not change: a changed file counts as missing.
    InPlace,
}

/// How urgent a fetch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FetchPriority {
    /// It may take its time, and stops for urgent ones.
    Bulk,
    /// Somebody waits for it.
    #[default]
    Normal,
    /// Goes first, beside the others.
    Urgent,
}

const fn yes() -> bool {
    true
}

/// Body of `POST /v1/data/add`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddRequest {
    /// Absolute path of a file or folder; honoured only for the daemon's own user.
    pub path: String,
    /// How.
    #[serde(default)]
    pub mode: AddMode,
    /// Name of the pin that keeps it; without one, a pin with its hash as name.
    #[serde(default)]
    pub name: Option<PinName>,
    /// Whether a file is cut by its contents and becomes a collection of one, so that another
    /// version of it shares what is equal; only where it is copied. A folder always becomes a
    /// collection, and is cut where it is copied.
    #[serde(default)]
    pub chunked: bool,
    /// Whether others are told that it is here.
    #[serde(default = "yes")]
    pub announce: bool,
}

/// Query of `POST /v1/data/upload`, whose body is the blob.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UploadQuery {
    /// As [`AddRequest::name`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<PinName>,
    /// As [`AddRequest::announce`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announce: Option<bool>,
    /// How many bytes will come, if that is known: refused at once when there is no room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// Body of `POST /v1/data/get`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetRequest {
    /// The blob; of a collection, everything in it.
    pub hash: ContentHash,
    /// Nodes to ask first, by node id or peer id; others are found.
    #[serde(default)]
    pub providers: Vec<String>,
    /// The most it may have in bytes, files of a collection together; `None`: what the store may
    /// take.
    #[serde(default)]
    pub bytes_max: Option<u64>,
    /// Absolute path of the file or folder that is written; honoured only for the daemon's own
    /// user. Without one it is kept in the store under a pin.
    #[serde(default)]
    pub target: Option<String>,
    /// Whether a target that exists is replaced.
    #[serde(default)]
    pub force: bool,
    /// Name of a pin that keeps it in the store.
    #[serde(default)]
    pub pin: Option<PinName>,
    /// How urgent.
    #[serde(default)]
    pub priority: FetchPriority,
}

/// One provider's part in a fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceProgress {
    /// The provider.
    pub node: NodeId,
    /// Verified bytes from it.
    pub bytes: u64,
    /// Its speed lately.
    pub bytes_per_s: u64,
}

/// One provider's part in a finished fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceBytes {
    /// The provider.
    pub node: NodeId,
    /// Verified bytes from it.
    pub bytes: u64,
}

/// Which blobs a list is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobFilter {
    /// All of them.
    #[default]
    All,
    /// Pinned ones.
    Pins,
    /// Those that are collections.
    Collections,
}

/// Query of `GET /v1/data/blobs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobsQuery {
    /// Which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<BlobFilter>,
    /// Behind this one, see [`BlobList::next`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<ContentHash>,
    /// At most so many are looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl BlobsQuery {
    /// The page size, within bounds.
    pub fn limit(&self) -> u32 {
        self.limit.unwrap_or(BLOBS_PAGE_MAX).clamp(1, BLOBS_PAGE_MAX)
    }
}

/// `GET /v1/data/blobs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobList {
    /// Whole blobs by hash.
    pub blobs: Vec<BlobSummary>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<ContentHash>,
    /// Whole blobs in the store, of all pages.
    pub blobs_stored: u64,
    /// Their bytes, and those of blobs that are arriving.
    pub bytes_stored: u64,
    /// Bytes that may be stored; 0 for no limit but the disk.
    pub quota_bytes: u64,
}

/// A blob at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobSummary {
    /// BLAKE3 of its bytes.
    pub hash: ContentHash,
    /// How many.
    pub bytes: u64,
    /// Whether it says that it is a collection.
    pub collection: bool,
    /// Pins that name it.
    pub pins: Vec<PinSummary>,
}

/// A name that keeps a blob, and all chunks of a collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinSummary {
    /// The name.
    pub name: PinName,
    /// What it keeps.
    pub hash: ContentHash,
    /// Until when, in seconds since the Unix epoch; `None`: for ever.
    pub until_s: Option<u64>,
    /// Whether others are told that it is here.
    pub announced: bool,
}

/// Query of `GET /v1/data/blobs/{hash}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobQuery {
    /// Files of a collection to tell; [`FILES_SHOWN`] without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u32>,
}

/// `GET /v1/data/blobs/{hash}`: a blob that is here, or of which some is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobDetail {
    /// BLAKE3 of its bytes.
    pub hash: ContentHash,
    /// How many it has.
    pub bytes: u64,
    /// How many are here.
    pub bytes_here: u64,
    /// Groups of 16 KiB that it has.
    pub groups: u64,
    /// Groups that are here, verified.
    pub groups_here: u64,
    /// Pins that name it.
    pub pins: Vec<PinSummary>,
    /// Whether the node itself needs it: it is kept without a pin, and cannot be removed.
    pub needed: bool,
    /// What is in it.
    pub collection: Option<CollectionDetail>,
}

/// What is in a collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionDetail {
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Different chunks.
    pub chunks: u64,
    /// Those that are here, whole.
    pub chunks_here: u64,
    /// The first files, by path.
    pub listed: Vec<FileSummary>,
}

/// A file of a collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSummary {
    /// Where it lies in the folder.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
    /// What it contains, as whoever made the collection says.
    pub media_type: String,
    /// Chunks of it.
    pub chunks: u64,
}

/// Body of `POST /v1/data/pin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinRequest {
    /// What to keep; it must be here.
    pub hash: ContentHash,
    /// The name; without one, the hash.
    #[serde(default)]
    pub name: Option<PinName>,
    /// For how many seconds; `None`: for ever.
    #[serde(default)]
    pub lease_s: Option<u64>,
    /// Whether others are told that it is here.
    #[serde(default = "yes")]
    pub announce: bool,
}

/// Body of `POST /v1/data/unpin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnpinRequest {
    /// The name of a pin, or a hash: then every pin of it.
    pub pin: PinName,
}

/// `POST /v1/data/unpin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpinned {
    /// The pins that are gone.
    pub pins: Vec<PinSummary>,
}

/// Body of `POST /v1/data/rm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    /// What to remove, and of a collection every chunk that nothing else needs.
    pub hash: ContentHash,
    /// Also when pins name it: they go with it.
    #[serde(default)]
    pub force: bool,
}

/// `POST /v1/data/rm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// What was removed.
    pub hash: ContentHash,
    /// Blobs that are gone, with their chunks.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Pins that went with it.
    pub pins: Vec<PinSummary>,
}

/// Body of `POST /v1/data/gc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GcRequest {
    /// Only say what would be removed.
    #[serde(default)]
    pub dry_run: bool,
}

/// Body of `POST /v1/data/verify`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// One blob, with the chunks of a collection; `None`: the whole store.
    #[serde(default)]
    pub hash: Option<ContentHash>,
    /// Whether damage is mended, and removed where it cannot be.
    #[serde(default)]
    pub repair: bool,
}

/// Something wrong in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// The blob, if it is one.
    pub hash: Option<ContentHash>,
    /// What is wrong, for people.
    pub problem: String,
    /// Whether it was mended or removed.
    pub repaired: bool,
}

/// `GET /v1/data/providers/{hash}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Providers {
    /// Those who say that they have some of it. Nothing of it is proven.
    pub providers: Vec<Provider>,
}

/// Somebody who says that it has a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// Who; `None` when its peer id is not that of a node of this network.
    pub node: Option<NodeId>,
    /// Its peer id.
    pub peer_id: String,
    /// Length of the blob, as it says.
    pub bytes: u64,
    /// How many of them it has, as it says.
    pub bytes_held: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_has_its_default() {
        let add: AddRequest = serde_json::from_str(r#"{"path":"/a"}"#).expect("the least");
        let expect = AddRequest {
            path: "/a".to_owned(),
            mode: AddMode::Copy,
            name: None,
            chunked: false,
            announce: true,
        };
        assert_eq!(add, expect);
        let hash = ContentHash::of(b"x");
        let get: GetRequest =
            serde_json::from_str(&format!(r#"{{"hash":"{hash}"}}"#)).expect("get");
        assert_eq!((get.priority, get.force, get.bytes_max), (FetchPriority::Normal, false, None));
        let pin: PinRequest =
            serde_json::from_str(&format!(r#"{{"hash":"{hash}"}}"#)).expect("pin");
        assert!(pin.announce && pin.lease_s.is_none());
        let unknown = serde_json::from_str::<AddRequest>(r#"{"path":"/a","inplace":true}"#);
        assert!(unknown.expect_err("misspelt").to_string().contains("unknown field"));
    }

    #[test]
    fn names_of_pins() {
        for good in ["a", "corpus:2026/v1.0_x-Y", &"x".repeat(PIN_NAME_BYTES_MAX)] {
            assert!(good.parse::<PinName>().is_ok(), "{good}");
        }
        for bad in ["", "a b", "ü", "a?b", "a&b", "a\n", &"x".repeat(PIN_NAME_BYTES_MAX + 1)] {
            assert_eq!(bad.parse::<PinName>(), Err(PinNameError), "{bad}");
        }
        assert!(serde_json::from_str::<PinName>(r#""a b""#).is_err());
    }

    #[test]
    fn the_json_is_as_documented() {
        let request = AddRequest {
            path: "/a".to_owned(),
            mode: AddMode::InPlace,
            name: Some("n".parse().expect("a name")),
            chunked: true,
            announce: false,
        };
        let json = serde_json::to_string(&request).expect("plain types");
        let expect =
            r#"{"path":"/a","mode":"in_place","name":"n","chunked":true,"announce":false}"#;
        assert_eq!(json, expect);
        assert_eq!(serde_json::from_str::<AddRequest>(&json).expect("the same"), request);
        let query = BlobsQuery { limit: Some(0), ..BlobsQuery::default() };
        assert_eq!((query.limit(), BlobsQuery::default().limit()), (1, BLOBS_PAGE_MAX));
    }
}
