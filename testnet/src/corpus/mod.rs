//! Text for the demo: every node its own, and an evaluation suite that no node holds.
//!
//! A *source* is what stays together: a crate, or an entry of the user's folder. Sources are
//! shuffled by the seed; the first make the suite, the others go each to the node that has the
//! least so far. Equal inputs and seeds give equal files.

pub mod canary;
pub mod crates;
pub mod filter;
pub mod folder;
pub mod gather;
pub mod split;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use protocol::ids::Beacon;
use protocol::training::Draw;

use crate::progress::megabytes;
use crate::workspace::Workspace;
pub use folder::check_folder;
pub use gather::Skipped;

/// Text that each node gets where there is enough: more than ten rounds of the demo read.
const NODE_BYTES: usize = 3 << 19;
/// Length of the suite where there is enough: 1,536 windows of 128 bytes.
const SUITE_BYTES: usize = 192 << 10;
/// What a node and the suite need at least.
pub const PART_BYTES_MIN: usize = 64 << 10;

/// How text is divided.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Nodes that get text.
    pub nodes: usize,
    /// Seed of the division.
    pub seed: u64,
    /// Bytes aimed at for each node.
    pub node_bytes: usize,
    /// Bytes aimed at for the suite.
    pub suite_bytes: usize,
}

impl Options {
    /// The demo's sizes.
    pub fn new(nodes: usize, seed: u64) -> Self {
        Self { nodes, seed, node_bytes: NODE_BYTES, suite_bytes: SUITE_BYTES }
    }

    /// Bytes to gather: a source in the suite is cut to an eighth of the suite, the rest of it
    /// is left out.
    fn wanted_bytes(&self) -> usize {
        self.nodes * self.node_bytes + self.suite_bytes * 6
    }

    /// A permutation of `0..count`, drawn from the seed.
    fn order(&self, count: usize) -> Vec<usize> {
        let seed = self.seed.to_le_bytes();
        let mut draw = Draw::new("ayni-testnet 2026 corpus order v1", &Beacon::default(), &[&seed]);
        let order = draw.sample(count as u64, count);
        order.into_iter().filter_map(|index| usize::try_from(index).ok()).collect()
    }
}

/// Text of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Name of the source, good as a file name.
    pub name: String,
    /// The text.
    pub text: String,
}

/// The corpora as written.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// One folder of text files for each node.
    pub nodes: Vec<PathBuf>,
    /// Bytes in each of them.
    pub node_bytes: Vec<u64>,
    /// The evaluation suite, one file of UTF-8 text.
    pub suite: PathBuf,
    /// Its length.
    pub suite_bytes: u64,
    /// Sources used, the suite's included.
    pub documents: usize,
    /// What was left out.
    pub skipped: Skipped,
}

impl Corpus {
    /// The files of one node's corpus, in name order.
    pub fn files(&self, node: usize) -> Result<Vec<PathBuf>> {
        gather::sorted_entries(self.nodes.get(node).context("no such node")?)
    }

    /// A line for people.
    pub fn describe(&self) -> String {
        let all: u64 = self.node_bytes.iter().sum();
        format!(
            "{} of text from {} sources for {} nodes, {} set aside for evaluation; left out: {}",
            megabytes(all),
            self.documents,
            self.nodes.len(),
            megabytes(self.suite_bytes),
            self.skipped
        )
    }
}

/// The default text: sources and documentation of the crates that Ayni is built from.
pub fn from_crates(workspace: &Workspace, options: &Options, into: &Path) -> Result<Corpus> {
    let sources = crates::sources(workspace)?;
    let gathered = crates::gather(sources, options)?;
    write(split::split(gathered.documents, options, "the crates")?, gathered.skipped, into)
}

/// A user's folder of text.
pub fn from_folder(folder: &Path, options: &Options, into: &Path) -> Result<Corpus> {
    let gathered = folder::gather(folder, options)?;
    let origin = format!("--data {}", folder.display());
    write(split::split(gathered.documents, options, &origin)?, gathered.skipped, into)
}

/// Writes the parts under `into`, replacing what an earlier run wrote there.
fn write(parts: split::Parts, skipped: Skipped, into: &Path) -> Result<Corpus> {
    fs::create_dir_all(into).with_context(|| format!("{} cannot be created", into.display()))?;
    let suite = into.join("suite.txt");
    fs::write(&suite, &parts.suite).with_context(|| format!("writing {}", suite.display()))?;
    let mut corpus = Corpus {
        nodes: Vec::new(),
        node_bytes: Vec::new(),
        suite,
        suite_bytes: parts.suite.len() as u64,
        documents: parts.suite_documents,
        skipped,
    };
    for (node, documents) in parts.nodes.iter().enumerate() {
        let folder = into.join(format!("node-{node}"));
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir(&folder)?;
        let mut bytes = 0;
        for document in documents {
            let file = folder.join(format!("{}.txt", document.name));
            fs::write(&file, &document.text).with_context(|| format!("{}", file.display()))?;
            bytes += document.text.len() as u64;
        }
        corpus.documents += documents.len();
        corpus.nodes.push(folder);
        corpus.node_bytes.push(bytes);
    }
    Ok(corpus)
}
