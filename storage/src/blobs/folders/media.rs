//! Media types by the ending of a file's name: a hint for people and programs.
//!
//! Deliberately absent: looking into the file.

use protocol::blobs::collection::{MediaType, RelativePath};

const TYPES: [(&str, &str); 30] = [
    ("bin", "application/octet-stream"),
    ("bz2", "application/x-bzip2"),
    ("csv", "text/csv"),
    ("flac", "audio/flac"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("htm", "text/html"),
    ("html", "text/html"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("json", "application/json"),
    ("jsonl", "application/jsonl"),
    ("md", "text/markdown"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("ogg", "audio/ogg"),
    ("parquet", "application/vnd.apache.parquet"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("toml", "application/toml"),
    ("tsv", "text/tab-separated-values"),
    ("txt", "text/plain"),
    ("wav", "audio/wav"),
    ("webp", "image/webp"),
    ("xml", "application/xml"),
    ("yaml", "application/yaml"),
    ("zip", "application/zip"),
    ("zst", "application/zstd"),
];

/// The type that the name suggests; any bytes, when none.
pub(super) fn media_type(path: &RelativePath) -> MediaType {
    let name = path.names().next_back().unwrap_or_default();
    let Some((_, ending)) = name.rsplit_once('.') else { return MediaType::default() };
    let ending = ending.to_ascii_lowercase();
    let found = TYPES.iter().find(|(known, _)| *known == ending);
    found.and_then(|(_, text)| MediaType::new(text).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_known_and_well_formed() {
        assert!(TYPES.iter().all(|(_, text)| MediaType::new(text).is_ok()));
        for (path, expected) in [
            ("a/b.TXT", "text/plain"),
            ("x.tar.gz", "application/gzip"),
            ("no-ending", "application/octet-stream"),
            (".json", "application/json"),
            ("a.json/b", "application/octet-stream"),
        ] {
            let path = RelativePath::new(path).expect("a path");
            assert_eq!(media_type(&path).as_str(), expected, "{path}");
        }
    }
}
