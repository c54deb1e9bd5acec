//! Dividing documents between the suite and the nodes.

use anyhow::{Result, bail};

use super::gather::cut_at_line;
use super::{Document, Options, PART_BYTES_MIN};
use crate::progress::megabytes;

/// Documents in the suite at least, where there are enough: one alone would be one style.
const SUITE_DOCUMENTS: usize = 8;

/// Divided text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The evaluation suite.
    pub suite: String,
    /// Documents that it was made of.
    pub suite_documents: usize,
    /// Documents of each node.
    pub nodes: Vec<Vec<Document>>,
}

/// Takes the suite from the front, each document cut to its share, and gives every further one
/// to the node that has least, until all have enough. `origin` is for the message.
pub fn split(documents: Vec<Document>, options: &Options, origin: &str) -> Result<Parts> {
    let all: usize = documents.iter().map(|document| document.text.len()).sum();
    let parts = options.nodes + 1;
    let suite_bytes = options.suite_bytes.min(all / parts);
    if all < parts * PART_BYTES_MIN {
        return too_little(origin, all, parts);
    }
    let share = suite_bytes.div_ceil(SUITE_DOCUMENTS);
    let mut suite = String::new();
    let mut suite_documents = 0;
    let mut rest = documents.into_iter();
    while suite.len() < suite_bytes {
        let Some(document) = rest.next() else { return too_little(origin, all, parts) };
        suite.push_str(cut_at_line(&document.text, share));
        suite_documents += 1;
    }
    let mut nodes: Vec<(usize, Vec<Document>)> = vec![(0, Vec::new()); options.nodes];
    for document in rest {
        let Some(least) = nodes.iter_mut().min_by_key(|(bytes, _)| *bytes) else { break };
        if least.0 >= options.node_bytes {
            break;
        }
        least.0 += document.text.len();
        least.1.push(document);
    }
    if nodes.iter().any(|(bytes, _)| *bytes < PART_BYTES_MIN / 2) {
        return too_little(origin, all, parts);
    }
    let nodes = nodes.into_iter().map(|(_, documents)| documents).collect();
    Ok(Parts { suite, suite_documents, nodes })
}

fn too_little(origin: &str, all: usize, parts: usize) -> Result<Parts> {
    bail!(
        "{origin}: {} of usable text is too little for {} nodes and an evaluation suite, which \
         need about {}. Add text (UTF-8 files), or use fewer nodes",
        megabytes(all as u64),
        parts - 1,
        megabytes((parts * PART_BYTES_MIN * 2) as u64)
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn documents(count: usize, bytes: usize) -> Vec<Document> {
        let line = format!("{}\n", "x".repeat(63));
        (0..count)
            .map(|n| Document { name: format!("d{n}"), text: line.repeat(bytes / 64) })
            .collect()
    }

    fn options() -> Options {
        Options { nodes: 4, seed: 1, node_bytes: 300_000, suite_bytes: 100_000 }
    }

    #[test]
    fn no_document_is_in_two_parts_and_nodes_get_alike() {
        let parts = split(documents(40, 64_000), &options(), "here").expect("enough");
        assert!((100_000..120_000).contains(&parts.suite.len()), "{}", parts.suite.len());
        let names: Vec<_> = parts.nodes.iter().flatten().map(|d| d.name.clone()).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert!(!names.contains(&"d0".to_owned()), "the first went into the suite");
        for node in &parts.nodes {
            let bytes: usize = node.iter().map(|d| d.text.len()).sum();
            assert!((300_000..370_000).contains(&bytes), "{bytes}");
        }
    }

    #[test]
    fn less_text_gives_smaller_parts_and_too_little_a_message() {
        let parts = split(documents(60, 10_000), &options(), "here").expect("just enough");
        assert!(parts.suite.len() < 120_000 && parts.suite.len() >= 99_000);
        for (count, bytes) in [(0, 0), (10, 6_400), (2, 400_000)] {
            let message = split(documents(count, bytes), &options(), "--data x").expect_err("no");
            let message = message.to_string();
            assert!(message.starts_with("--data x: ") && message.contains("4 nodes"), "{message}");
        }
    }
}
