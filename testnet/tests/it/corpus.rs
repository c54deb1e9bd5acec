//! Corpora from the real crates of this checkout and from folders.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use ayni_testnet::baseline::Counts;
use ayni_testnet::corpus::{Corpus, Options, from_crates, from_folder};
use ayni_testnet::workspace::Workspace;

/// All files of a corpus with their content.
fn content(corpus: &Corpus) -> Vec<(String, String)> {
    let mut all = vec![("suite".to_owned(), fs::read_to_string(&corpus.suite).unwrap())];
    for node in 0..corpus.nodes.len() {
        for file in corpus.files(node).unwrap() {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            all.push((format!("{node}/{name}"), fs::read_to_string(&file).unwrap()));
        }
    }
    all
}

#[test]
fn the_crates_give_every_node_its_own_text_and_a_suite() {
    let workspace = Workspace::find().unwrap();
    let home = tempfile::tempdir().unwrap();
    let corpus = |name: &str, seed| {
        from_crates(&workspace, &Options::new(4, seed), &home.path().join(name)).unwrap()
    };
    let one = corpus("one", 1);
    assert!((190_000..250_000).contains(&one.suite_bytes), "{}", one.describe());
    for bytes in &one.node_bytes {
        assert!((1_500_000..1_800_000).contains(bytes), "{bytes}");
    }
    let names: Vec<String> = content(&one)
        .into_iter()
        .filter_map(|(name, _)| name.split_once('/').map(|(_, crate_name)| crate_name.to_owned()))
        .collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "a crate is at one node");
    assert!(names.len() > 40, "many crates");
    assert!(names.iter().all(|name| !name.ends_with("-sys.txt") && !name.starts_with("ayni")));

    // What the demo's model is compared with: every second window of 128 bytes.
    let mut counts = Counts::default();
    for folder in &one.nodes {
        counts.add_folder(folder).unwrap();
    }
    let suite = fs::read(&one.suite).unwrap();
    let windows: Vec<u64> = (0..(one.suite_bytes - 1) / 128).filter(|w| w % 2 == 1).collect();
    let losses = counts.losses(&suite, 128, &windows).unwrap();
    assert!((3.2..3.8).contains(&losses.unigram), "{losses:?}");
    assert!((2.4..3.0).contains(&losses.bigram), "{losses:?}");

    assert_eq!(content(&one), content(&corpus("again", 1)), "equal seeds, equal files");
    assert_ne!(content(&one), content(&corpus("two", 2)), "other seeds, other files");
}

/// Some text that differs between files.
fn write_text(path: &Path, bytes: usize) {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let line = format!("A line of text in {name}, which is number ");
    let text: String = (0..bytes / (line.len() + 6)).map(|n| format!("{line}{n:05}\n")).collect();
    fs::write(path, text).unwrap();
}

#[test]
fn a_folder_is_split_by_its_entries() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    for n in 0..30 {
        fs::create_dir_all(data.join(format!("book {n}/part"))).unwrap();
        write_text(&data.join(format!("book {n}/part/{n}.txt")), 40_000);
    }
    fs::write(data.join("book 3/latin1.txt"), b"caf\xe9").unwrap();
    fs::write(data.join("book 4/copy.txt"), fs::read(data.join("book 5/part/5.txt")).unwrap())
        .unwrap();
    let corpus = from_folder(&data, &Options::new(4, 1), &home.path().join("out")).unwrap();
    assert_eq!((corpus.skipped.not_utf8, corpus.skipped.duplicates), (1, 1));
    assert!(corpus.node_bytes.iter().all(|bytes| *bytes > 100_000), "{:?}", corpus.node_bytes);
    assert!(corpus.suite_bytes > 64_000);
}

#[test]
fn a_single_file_is_cut_into_pieces_for_all() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    fs::create_dir(&data).unwrap();
    write_text(&data.join("all.txt"), 2_000_000);
    let corpus = from_folder(&data, &Options::new(5, 1), &home.path().join("out")).unwrap();
    assert_eq!(corpus.nodes.len(), 5);
    let (least, most) =
        (corpus.node_bytes.iter().min().unwrap(), corpus.node_bytes.iter().max().unwrap());
    assert!(*least > 200_000 && most - least < 100_000, "{:?}", corpus.node_bytes);
    let all: u64 = corpus.node_bytes.iter().sum::<u64>() + corpus.suite_bytes;
    assert!(all <= 2_000_000);
}

#[test]
fn folders_without_enough_text_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("binary"), [0xff; 1_000_000]).unwrap();
    write_text(&data.join("small.txt"), 50_000);
    let error = from_folder(&data, &Options::new(4, 1), &home.path().join("out")).unwrap_err();
    assert!(error.to_string().contains("too little for 4 nodes"), "{error}");
    assert!(!home.path().join("out").exists(), "nothing is written");
}
