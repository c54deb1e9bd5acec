//! Installation from generated wheels: resuming, torn wheels, interrupted unpacking.

use std::cell::RefCell;
use std::io::Write;
use std::path::PathBuf;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::super::recipe::Keep;
use super::*;

/// Serves generated wheels and remembers which were asked for.
struct Shelf {
    files: Vec<(String, Vec<u8>)>,
    fetched: RefCell<Vec<String>>,
}

impl Source for Shelf {
    fn fetch(&self, wheel: &Wheel, incoming: &Path) -> Result<()> {
        self.fetched.borrow_mut().push(wheel.requirement.clone());
        let (_, bytes) = self
            .files
            .iter()
            .find(|(requirement, _)| *requirement == wheel.requirement)
            .context("not on the shelf")?;
        fs::write(incoming.join("any-name.whl"), bytes)?;
        Ok(())
    }
}

impl Shelf {
    fn taken(&self) -> Vec<String> {
        self.fetched.take()
    }
}

fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn pinned(requirement: &str, bytes: &[u8], keep: Vec<Keep>) -> Wheel {
    Wheel {
        requirement: requirement.to_owned(),
        sha256: hex::encode(Sha256::digest(bytes)),
        bytes: bytes.len() as u64,
        keep,
    }
}

/// Two wheels with things to keep and things to leave.
fn world() -> (Recipe, Shelf, tempfile::TempDir) {
    let torch = archive(&[
        ("torch/lib/libtorch_cpu.so", "cpu code"),
        ("torch/lib/libtorch_cuda.so", "cuda code"),
        ("torch/include/a/b.h", "#pragma once"),
        ("torch.dist-info/licenses/LICENSE", "as is"),
    ]);
    let cuda = archive(&[("nvidia/cu13/lib/libcudart.so.13", "cudart"), ("other", "x")]);
    let same = |path| Keep { from: path, to: path };
    let recipe = Recipe {
        version: "9.9.9+cpu",
        wheels: vec![
            pinned("cudart==1", &cuda, vec![same("nvidia/cu13/lib/libcudart.so.13")]),
            pinned(
                "torch==9.9.9",
                &torch,
                vec![
                    same("torch/include/"),
                    same("torch/lib/libtorch_cpu.so"),
                    Keep { from: "torch.dist-info/licenses/", to: "torch/licences/" },
                ],
            ),
        ],
        required: vec!["torch/lib/libtorch_cpu.so", "torch/lib/libtorch.so"],
        unpacked_bytes: 100,
    };
    let files = vec![("torch==9.9.9".to_owned(), torch), ("cudart==1".to_owned(), cuda)];
    let shelf = Shelf { files, fetched: RefCell::new(Vec::new()) };
    (recipe, shelf, tempfile::tempdir().unwrap())
}

fn files_under(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_under(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

#[test]
fn a_first_run_leaves_what_the_recipe_names_and_a_second_does_nothing() {
    let (recipe, shelf, home) = world();
    let home = home.path();
    assert_eq!(install(&recipe, home, &shelf).unwrap(), Outcome::Installed);
    assert_eq!(shelf.taken(), ["cudart==1", "torch==9.9.9"]);
    let expect = [
        "lock",
        "nvidia/cu13/lib/libcudart.so.13",
        "torch/build-version",
        "torch/include/a/b.h",
        "torch/lib/libtorch.so",
        "torch/lib/libtorch_cpu.so",
        "torch/licences/LICENSE",
    ];
    assert_eq!(files_under(home), expect.map(|file| home.join(file)));
    assert_eq!(fs::read_to_string(home.join("torch/lib/libtorch_cpu.so")).unwrap(), "cpu code");
    assert_eq!(fs::read_to_string(home.join("torch/lib/libtorch.so")).unwrap(), LINKER_SCRIPT);

    assert_eq!(install(&recipe, home, &shelf).unwrap(), Outcome::AlreadyThere);
    assert!(shelf.taken().is_empty());
}

#[test]
fn whole_wheels_are_kept_and_torn_ones_fetched_again() {
    let (recipe, shelf, home) = world();
    let home = home.path();
    fs::create_dir_all(home.join("wheels")).unwrap();
    let torch = &shelf.files[0].1;
    fs::write(home.join("wheels/torch-9.9.9.whl"), &torch[..torch.len() / 2]).unwrap();
    fs::write(home.join("wheels/cudart-1.whl"), &shelf.files[1].1).unwrap();
    install(&recipe, home, &shelf).unwrap();
    assert_eq!(shelf.taken(), ["torch==9.9.9"]);
    assert!(!home.join("wheels").exists(), "wheels are removed in the end");
}

#[test]
fn a_flipped_bit_is_found_by_the_hash() {
    let (recipe, shelf, home) = world();
    let home = home.path();
    fs::create_dir_all(home.join("wheels")).unwrap();
    let mut flipped = shelf.files[0].1.clone();
    flipped[40] ^= 1;
    fs::write(home.join("wheels/torch-9.9.9.whl"), &flipped).unwrap();
    install(&recipe, home, &shelf).unwrap();
    assert_eq!(shelf.taken(), ["cudart==1", "torch==9.9.9"]);
}

#[test]
fn a_wrong_wheel_from_the_index_is_refused_and_the_rest_kept() {
    let (recipe, mut shelf, home) = world();
    let home = home.path();
    let right = shelf.files[0].1.clone();
    shelf.files[0].1[40] ^= 1;
    let message = format!("{:#}", install(&recipe, home, &shelf).expect_err("wrong hash"));
    assert!(message.contains("SHA-256") && message.contains("Nothing was kept"), "{message}");
    assert!(!is_ready(&recipe, home));
    assert_eq!(files_under(&home.join("wheels")), [home.join("wheels/cudart-1.whl")]);

    shelf.files[0].1 = right;
    shelf.taken();
    install(&recipe, home, &shelf).unwrap();
    assert_eq!(shelf.taken(), ["torch==9.9.9"], "the first wheel was still there");
}

#[test]
fn a_failed_download_leaves_nothing_half_done() {
    let (recipe, mut shelf, home) = world();
    shelf.files.remove(0);
    let message = format!("{:#}", install(&recipe, home.path(), &shelf).expect_err("missing"));
    assert!(message.contains("not on the shelf"), "{message}");
    let wheels = home.path().join("wheels");
    assert_eq!(files_under(&wheels), [wheels.join("cudart-1.whl")]);
    assert!(!wheels.join("incoming").exists());
}

#[test]
fn an_interrupted_unpacking_is_begun_anew() {
    let (recipe, shelf, home) = world();
    let home = home.path();
    // What a run leaves that was killed while it unpacked, and one killed between the renames.
    fs::create_dir_all(home.join("unpacking/torch/lib")).unwrap();
    fs::write(home.join("unpacking/torch/lib/libtorch_cpu.so"), "cpu").unwrap();
    fs::create_dir_all(home.join("nvidia/cu13/lib")).unwrap();
    fs::create_dir_all(home.join("wheels/incoming")).unwrap();
    fs::write(home.join("wheels/incoming/half.whl"), "half").unwrap();
    assert!(!is_ready(&recipe, home));
    install(&recipe, home, &shelf).unwrap();
    assert!(is_ready(&recipe, home));
    assert!(!home.join("unpacking").exists());
    assert_eq!(fs::read_to_string(home.join("torch/lib/libtorch_cpu.so")).unwrap(), "cpu code");
}

#[test]
fn another_version_or_an_empty_library_is_replaced() {
    let (recipe, shelf, home) = world();
    let home = home.path();
    install(&recipe, home, &shelf).unwrap();
    fs::write(home.join("torch/build-version"), "9.9.8+cpu").unwrap();
    assert_eq!(install(&recipe, home, &shelf).unwrap(), Outcome::Installed);
    fs::write(home.join("torch/lib/libtorch_cpu.so"), "").unwrap();
    assert_eq!(install(&recipe, home, &shelf).unwrap(), Outcome::Installed);
    assert!(is_ready(&recipe, home));
}

#[test]
fn a_wheel_without_a_needed_file_does_not_replace_anything() {
    let (mut recipe, shelf, home) = world();
    let home = home.path();
    recipe.required.push("torch/lib/libc10.so");
    let message = format!("{:#}", install(&recipe, home, &shelf).expect_err("incomplete"));
    assert!(message.contains("libc10.so"), "{message}");
    assert!(!home.join("torch").exists());
}
