//! A user's folder of text, as sources: its entries, or pieces of them where there are few.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::gather::{Gathered, Gatherer, Rules, Source, cut_at_line, sorted_entries};
use super::{Document, Options};

/// Sources per part below which entries are cut into pieces.
const SOURCES_PER_PART_MIN: usize = 4;
/// Pieces per part that cutting aims at.
const PIECES_PER_PART: usize = 8;
/// Bounds of a piece.
const PIECE_BYTES_MIN: usize = 4 << 10;
const PIECE_BYTES_MAX: usize = 128 << 10;

/// Says at once what is wrong with a folder, before anything is built.
pub fn check_folder(folder: &Path) -> Result<()> {
    let shown = folder.display();
    let advice = "Name a folder that holds text files";
    let Ok(metadata) = fs::metadata(folder) else {
        bail!("--data {shown} does not exist or cannot be read. {advice}");
    };
    if !metadata.is_dir() {
        bail!("--data {shown} is a file, not a folder. {advice}");
    }
    let mut entries =
        fs::read_dir(folder).with_context(|| format!("--data {shown} cannot be listed"))?;
    if entries.next().is_none() {
        bail!("--data {shown} is empty. {advice}");
    }
    Ok(())
}

/// Text of as many entries, in seeded order, as the options want.
pub(super) fn gather(folder: &Path, options: &Options) -> Result<Gathered> {
    check_folder(folder)?;
    let sources = sources(folder)?;
    let parts = options.nodes + 1;
    let few = sources.len() < SOURCES_PER_PART_MIN * parts;
    let limit = if few { options.wanted_bytes() } else { options.node_bytes };
    let mut gatherer = Gatherer::new(Rules::Any);
    let mut bytes = 0;
    for index in options.order(sources.len()) {
        if !few && bytes >= options.wanted_bytes() {
            break;
        }
        bytes += gatherer.add(&sources[index], limit)?;
    }
    let mut gathered = gatherer.finish();
    if few {
        let piece = (bytes / (PIECES_PER_PART * parts)).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX);
        let pieces = cut(gathered.documents, piece);
        gathered.documents =
            options.order(pieces.len()).into_iter().map(|index| pieces[index].clone()).collect();
    }
    Ok(gathered)
}

fn sources(folder: &Path) -> Result<Vec<Source>> {
    let mut sources: Vec<Source> = Vec::new();
    for root in sorted_entries(folder)? {
        let name = root.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        let mut name: String = name
            .chars()
            .take(48)
            .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
            .collect();
        if sources.iter().any(|source| source.name == name) {
            name = format!("{name}.{}", sources.len());
        }
        sources.push(Source { name, root });
    }
    Ok(sources)
}

/// Cuts documents at line ends into pieces of at most `piece` bytes.
fn cut(documents: Vec<Document>, piece: usize) -> Vec<Document> {
    let mut pieces = Vec::new();
    for document in documents {
        let mut rest = document.text.as_str();
        let mut number = 0;
        while !rest.is_empty() {
            let (head, tail) = rest.split_at(cut_at_line(rest, piece).len());
            pieces
                .push(Document { name: format!("{}-{number}", document.name), text: head.into() });
            rest = tail;
            number += 1;
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_cannot_be_used_are_told_apart() {
        let home = tempfile::tempdir().unwrap();
        let message = |path: &Path| check_folder(path).expect_err("unusable").to_string();
        assert!(message(&home.path().join("none")).contains("does not exist"));
        assert!(message(home.path()).contains("is empty"));
        fs::write(home.path().join("file"), "x").unwrap();
        assert!(message(&home.path().join("file")).contains("is a file"));
        check_folder(home.path()).expect("a folder with something in it");
    }

    #[test]
    fn pieces_end_at_lines_and_lose_nothing() {
        let text: String = (0..100).map(|n| format!("line {n}\n")).collect();
        let document = Document { name: "a".into(), text: text.clone() };
        let pieces = cut(vec![document], 64);
        assert!(pieces.iter().all(|piece| piece.text.len() <= 64 && piece.text.ends_with('\n')));
        assert_eq!(pieces.iter().map(|piece| piece.text.as_str()).collect::<String>(), text);
        // A line longer than a piece is cut within, at a character.
        let long = Document { name: "b".into(), text: "é".repeat(50) };
        assert!(cut(vec![long], 33).iter().all(|piece| piece.text.len() <= 33));
    }

    #[test]
    fn names_are_plain_and_different() {
        let home = tempfile::tempdir().unwrap();
        for name in ["a b", "a?b", ".git", "ok.txt"] {
            fs::write(home.path().join(name), "x").unwrap();
        }
        let names: Vec<_> = sources(home.path()).unwrap().into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["a_b", "a_b.1", "ok.txt"]);
    }
}
