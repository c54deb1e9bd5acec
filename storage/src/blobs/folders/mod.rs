//! Folders in and out: a collection is a list of files, whose chunks are blobs.

mod export;
mod import;
mod media;

pub use self::export::ExportReport;
pub use self::import::{FolderOptions, FolderReport};
