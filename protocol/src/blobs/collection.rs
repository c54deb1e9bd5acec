//! Collections: folders as lists of files, each a list of chunks that are blobs.
//!
//! A collection is itself a blob: the line [`MAGIC`], then the canonical encoding. So equal
//! folders have equal hashes, and a chunk that two files share is stored and fetched once.
//!
//! **Invariant.** A [`Collection`] is well formed once it exists: paths stay inside the target,
//! are sorted and unique, and no file is also a folder; every file is as long as its chunks.
//!
//! Deliberately absent: permissions, owners, times and links, which would make equal contents
//! different; any rule on letters or Unicode forms, which is the file system's; and whether the
//! chunks exist or are as long as it says, which is checked when their bytes are there.

use std::cmp::Ordering;
use std::fmt;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::codec::{self, Canonical, CodecError};
use crate::ids::ContentHash;
use crate::limits::{
    BLOB_BYTES_MAX, COLLECTION_BYTES_MAX, COLLECTION_FILES_MAX, COLLECTION_NAME_BYTES_MAX,
    COLLECTION_PATH_BYTES_MAX, MEDIA_TYPE_BYTES_MAX,
};

/// What a collection begins with.
pub const MAGIC: &[u8] = b"ayni-collection/1\n";

/// Why a path is refused.
#[derive(Debug, Error, PartialEq, Eq, Clone, Copy)]
pub enum PathError {
    /// Nothing, or too much.
    #[error("a path of {0} bytes, 1 to {COLLECTION_PATH_BYTES_MAX} are allowed")]
    Length(usize),
    /// A component that file systems do not take.
    #[error("a name of {0} bytes in a path, at most {COLLECTION_NAME_BYTES_MAX} are allowed")]
    Name(usize),
    /// An absolute path, a doubled `/` or one at the end.
    #[error("a path with an empty component")]
    Empty,
    /// `.` or `..`.
    #[error("a path with a component . or ..")]
    Dots,
    /// A backslash or a control character.
    #[error("a path with the character {0:?}")]
    Character(char),
}

/// A path inside a folder: names separated by `/`. It cannot lead out of the folder, as long as
/// nobody follows links.
///
/// Ordered by components, so that a folder's files stand together behind its own name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct RelativePath(String);

impl TryFrom<String> for RelativePath {
    type Error = PathError;

    fn try_from(text: String) -> Result<Self, PathError> {
        if !(1..=COLLECTION_PATH_BYTES_MAX).contains(&text.len()) {
            return Err(PathError::Length(text.len()));
        }
        if let Some(bad) = text.chars().find(|char| char.is_control() || *char == '\\') {
            return Err(PathError::Character(bad));
        }
        for name in text.split('/') {
            match name {
                "" => return Err(PathError::Empty),
                "." | ".." => return Err(PathError::Dots),
                _ if name.len() > COLLECTION_NAME_BYTES_MAX => {
                    return Err(PathError::Name(name.len()));
                }
                _ => {}
            }
        }
        Ok(Self(text))
    }
}

impl Ord for RelativePath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.names().cmp(other.names())
    }
}

impl PartialOrd for RelativePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl RelativePath {
    /// Checks a path.
    pub fn new(text: &str) -> Result<Self, PathError> {
        text.to_owned().try_into()
    }

    /// The whole path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its components, at least one.
    pub fn names(&self) -> std::str::Split<'_, char> {
        self.0.split('/')
    }

    /// Whether this, a file, would have to be a folder for `other` to exist.
    fn is_folder_of(&self, other: &Self) -> bool {
        other.0.strip_prefix(&self.0).is_some_and(|rest| rest.starts_with('/'))
    }
}

/// What kind of contents a file has: `type/subtype`, without parameters, in lower case. A hint
/// from whoever made the collection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct MediaType(String);

/// What is no media type.
#[derive(Debug, Error, PartialEq, Eq, Clone, Copy)]
#[error("a media type is type/subtype in lower case, at most {MEDIA_TYPE_BYTES_MAX} bytes")]
pub struct MediaTypeError;

impl TryFrom<String> for MediaType {
    type Error = MediaTypeError;

    fn try_from(text: String) -> Result<Self, MediaTypeError> {
        // RFC 6838, 4.2.
        let is_name = |name: &str| {
            name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
                && name.bytes().all(|byte| {
                    byte.is_ascii_lowercase()
                        || byte.is_ascii_digit()
                        || b"!#$&-^_.+".contains(&byte)
                })
        };
        let names = text.split_once('/').filter(|(kind, sub)| is_name(kind) && is_name(sub));
        if names.is_none() || text.len() > MEDIA_TYPE_BYTES_MAX {
            return Err(MediaTypeError);
        }
        Ok(Self(text))
    }
}

impl Default for MediaType {
    /// Any bytes.
    fn default() -> Self {
        Self("application/octet-stream".to_owned())
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl MediaType {
    /// Checks a media type.
    pub fn new(text: &str) -> Result<Self, MediaTypeError> {
        text.to_owned().try_into()
    }

    /// The whole of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A blob that is a stretch of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The blob.
    pub hash: ContentHash,
    /// Its length in bytes, at least one.
    pub bytes: u64,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionFile {
    /// Where it lies in the folder.
    pub path: RelativePath,
    /// Its length: the sum of the chunks.
    pub bytes: u64,
    /// What it contains.
    pub media_type: MediaType,
    /// Its contents in order; none of an empty file.
    pub chunks: Vec<Chunk>,
}

/// Why a collection is refused.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum CollectionError {
    /// The bytes are something else.
    #[error("these bytes are no collection: they begin with something else")]
    Magic,
    /// The bytes after the first line are no list of files.
    #[error("a damaged collection")]
    Codec(#[from] CodecError),
    /// Too many files.
    #[error("more than {COLLECTION_FILES_MAX} files: make several collections")]
    Files,
    /// The list is too long.
    #[error(
        "a list of files of {0} bytes, at most {COLLECTION_BYTES_MAX} are allowed: make \
             several collections"
    )]
    Bytes(usize),
    /// Two files of one name, or out of order.
    #[error("the file {0} is named twice or out of order")]
    Order(RelativePath),
    /// A file that is also a folder.
    #[error("{0} is both a file and a folder")]
    Folder(RelativePath),
    /// A length that is not that of the chunks, or a chunk of an impossible length.
    #[error("the length of the file {0} is not that of its chunks")]
    Length(RelativePath),
}

/// A folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collection {
    #[serde(deserialize_with = "files")]
    files: Vec<CollectionFile>,
}

impl Canonical for Collection {
    const BYTES_MAX: usize = COLLECTION_BYTES_MAX - MAGIC.len();
}

/// Refuses a list as soon as it is wrong, so that a hostile one costs no memory.
fn files<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<CollectionFile>, D::Error> {
    struct Files;

    impl<'de> Visitor<'de> for Files {
        type Value = Vec<CollectionFile>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of files")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut files = Vec::new();
            while let Some(file) = list.next_element()? {
                check(files.last(), files.len(), &file).map_err(A::Error::custom)?;
                files.push(file);
            }
            Ok(files)
        }
    }

    deserializer.deserialize_seq(Files)
}

/// Whether `file` may follow `count` others, of which `before` is the last.
fn check(
    before: Option<&CollectionFile>,
    count: usize,
    file: &CollectionFile,
) -> Result<(), CollectionError> {
    if count >= COLLECTION_FILES_MAX {
        return Err(CollectionError::Files);
    }
    if let Some(before) = before {
        if before.path >= file.path {
            return Err(CollectionError::Order(file.path.clone()));
        }
        // In the order of components, everything below a name follows it at once.
        if before.path.is_folder_of(&file.path) {
            return Err(CollectionError::Folder(before.path.clone()));
        }
    }
    let sum = file.chunks.iter().try_fold(0_u64, |sum, chunk| {
        (1..=BLOB_BYTES_MAX).contains(&chunk.bytes).then(|| sum.checked_add(chunk.bytes)).flatten()
    });
    if sum != Some(file.bytes) {
        return Err(CollectionError::Length(file.path.clone()));
    }
    Ok(())
}

impl Collection {
    /// Makes a collection of files in any order.
    pub fn new(mut files: Vec<CollectionFile>) -> Result<Self, CollectionError> {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut before = None;
        for (count, file) in files.iter().enumerate() {
            check(before, count, file)?;
            before = Some(file);
        }
        Ok(Self { files })
    }

    /// Whether a blob that begins with these bytes says that it is a collection.
    pub fn is_announced_by(start: &[u8]) -> bool {
        start.starts_with(MAGIC)
    }

    /// The bytes of the blob; refused when they are too many.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CollectionError> {
        let bytes = [MAGIC, &codec::encode(self)].concat();
        if bytes.len() > COLLECTION_BYTES_MAX {
            return Err(CollectionError::Bytes(bytes.len()));
        }
        Ok(bytes)
    }

    /// Parses the bytes of the blob.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CollectionError> {
        if bytes.len() > COLLECTION_BYTES_MAX {
            return Err(CollectionError::Bytes(bytes.len()));
        }
        let encoded = bytes.strip_prefix(MAGIC).ok_or(CollectionError::Magic)?;
        Ok(codec::decode(encoded)?)
    }

    /// The files, sorted by path.
    pub fn files(&self) -> &[CollectionFile] {
        &self.files
    }

    /// The file at a path.
    pub fn file(&self, path: &RelativePath) -> Option<&CollectionFile> {
        let index = self.files.binary_search_by(|file| file.path.cmp(path)).ok()?;
        self.files.get(index)
    }

    /// All chunks, file by file; a shared one comes several times.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> + '_ {
        self.files.iter().flat_map(|file| file.chunks.iter().copied())
    }

    /// Length of all files together in bytes, shared chunks counted every time.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, chunks: &[u64]) -> CollectionFile {
        let chunks =
            chunks.iter().map(|bytes| Chunk { hash: ContentHash::of(b"x"), bytes: *bytes });
        CollectionFile {
            path: RelativePath::new(path).expect("a good path"),
            bytes: chunks.clone().fold(0, |sum, chunk| sum.wrapping_add(chunk.bytes)),
            media_type: MediaType::default(),
            chunks: chunks.collect(),
        }
    }

    #[test]
    fn paths_stay_inside() {
        let long = "x".repeat(255);
        for good in ["a", "a/b", "...", "a b/ü.txt", "C:", "-", &long, &format!("{long}/{long}")] {
            assert_eq!(RelativePath::new(good).expect(good).as_str(), good);
        }
        let check = |path: &str, error| assert_eq!(RelativePath::new(path), Err(error), "{path:?}");
        check("", PathError::Length(0));
        check(&"a/".repeat(513), PathError::Length(1_026));
        check(&"x".repeat(256), PathError::Name(256));
        for path in ["/", "/a", "a/", "a//b"] {
            check(path, PathError::Empty);
        }
        for path in [".", "..", "../a", "a/..", "a/./b"] {
            check(path, PathError::Dots);
        }
        for (path, bad) in
            [("a\0", '\0'), ("a\\b", '\\'), ("\u{1b}[2J", '\u{1b}'), ("\u{85}", '\u{85}')]
        {
            check(path, PathError::Character(bad));
        }
    }

    #[test]
    fn media_types() {
        for good in ["text/plain", "application/vnd.x-y+json", "0/0"] {
            assert!(MediaType::new(good).is_ok(), "{good}");
        }
        let long = format!("text/{}", "x".repeat(123));
        for bad in ["", "text", "text/", "/plain", "Text/plain", "text/a/b", "text/a;b", &long] {
            assert!(MediaType::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn files_are_sorted_unique_and_no_folders() {
        let made = Collection::new(vec![file("a-b", &[3]), file("b", &[]), file("a/b", &[1, 2])]);
        let made = made.expect("three files");
        let paths: Vec<_> = made.files().iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["a/b", "a-b", "b"]);
        assert_eq!((made.bytes(), made.chunks().count()), (6, 3));
        let path = RelativePath::new("a-b").expect("a good path");
        assert_eq!(made.file(&path).map(|file| file.bytes), Some(3));
        let bytes = made.to_bytes().expect("small");
        assert!(Collection::is_announced_by(&bytes));
        assert_eq!(Collection::from_bytes(&bytes), Ok(made));

        let twice = Collection::new(vec![file("a", &[]), file("a", &[])]);
        assert!(matches!(twice, Err(CollectionError::Order(_))));
        let folder = Collection::new(vec![file("a", &[]), file("a-", &[]), file("a/b/c", &[])]);
        assert_eq!(folder, Err(CollectionError::Folder(RelativePath::new("a").expect("good"))));
        let mut wrong = file("a", &[1, 2]);
        wrong.bytes = 4;
        let sums = [wrong, file("a", &[0]), file("a", &[BLOB_BYTES_MAX + 1])];
        for file in sums {
            let refused = Collection::new(vec![file]);
            assert!(matches!(refused, Err(CollectionError::Length(_))), "{refused:?}");
        }
    }

    #[test]
    fn hostile_lists_are_refused() {
        let decode = |files: Vec<CollectionFile>| {
            // What an attacker makes: the same encoding, unchecked.
            let bytes = [MAGIC, &codec::encode(&Collection { files })].concat();
            Collection::from_bytes(&bytes)
        };
        assert!(decode(vec![file("a", &[1]), file("b", &[])]).is_ok());
        for bad in [
            vec![file("b", &[]), file("a", &[])],
            vec![file("a", &[]), file("a", &[])],
            vec![file("a", &[]), file("a/b", &[])],
            vec![file("a", &[0])],
            vec![file("a", &[u64::MAX, 1])],
        ] {
            assert!(matches!(decode(bad), Err(CollectionError::Codec(_))));
        }
        assert_eq!(Collection::from_bytes(b"ayni-collection/2\n\0"), Err(CollectionError::Magic));
        let huge = vec![0; COLLECTION_BYTES_MAX + 1];
        assert_eq!(Collection::from_bytes(&huge), Err(CollectionError::Bytes(huge.len())));
    }

    #[test]
    fn the_largest_lists_can_be_read_again() {
        let mut small: Vec<_> =
            (0..COLLECTION_FILES_MAX).map(|n| file(&format!("{n:x}"), &[1])).collect();
        let most = Collection::new(small.clone()).expect("as many as allowed");
        let bytes = most.to_bytes().expect("not too long");
        assert_eq!(Collection::from_bytes(&bytes), Ok(most));
        small.push(file("one more", &[]));
        assert_eq!(Collection::new(small), Err(CollectionError::Files));

        let chunks = COLLECTION_BYTES_MAX / 33 - 4;
        let long = Collection::new(vec![file("a", &vec![1; chunks])]).expect("one file");
        let bytes = long.to_bytes().expect("just not too long");
        assert_eq!(Collection::from_bytes(&bytes), Ok(long));
        let longer = Collection::new(vec![file("a", &vec![1; chunks + 5])]).expect("one file");
        assert!(matches!(longer.to_bytes(), Err(CollectionError::Bytes(_))));
    }
}
