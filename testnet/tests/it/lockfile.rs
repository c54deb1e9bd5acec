//! Versions below which a dependency has a known fault that reaches us.

use std::path::Path;

/// `crate, line, lowest version in that line`: a crate may be there in several lines.
const LOWEST: [(&str, &str, [u64; 3]); 5] = [
    ("libp2p-gossipsub", "0.50", [0, 50, 1]),
    ("yamux", "0.13", [0, 13, 10]),
    ("yamux", "0.14", [0, 14, 1]),
    ("quinn-proto", "0.11", [0, 11, 15]),
    ("curve25519-dalek", "4", [4, 1, 3]),
];

fn locked() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    let lock = std::fs::read_to_string(path).expect("Cargo.lock is committed");
    let value = |line: &str, key: &str| {
        line.strip_prefix(key).map(|rest| rest.trim_matches([' ', '=', '"']).to_owned())
    };
    let lines: Vec<&str> = lock.lines().collect();
    lines
        .windows(2)
        .filter_map(|pair| Some((value(pair[0], "name = ")?, value(pair[1], "version = ")?)))
        .collect()
}

fn number(version: &str) -> Vec<u64> {
    let core = version.split(['-', '+']).next().unwrap_or(version);
    core.split('.').map(|part| part.parse().expect("a number")).collect()
}

#[test]
fn no_locked_dependency_is_older_than_its_mended_version() {
    let locked = locked();
    assert!(locked.len() > 100, "Cargo.lock was read");
    for (name, line, lowest) in LOWEST {
        let versions: Vec<&String> = locked
            .iter()
            .filter(|(other, version)| {
                other == name
                    && version.strip_prefix(line).is_some_and(|rest| rest.starts_with('.'))
            })
            .map(|(_, version)| version)
            .collect();
        assert!(!versions.is_empty(), "{name} {line} is no longer locked: mend this table");
        for version in versions {
            assert!(number(version) >= lowest.to_vec(), "{name} {version} is below {lowest:?}");
        }
    }
}
