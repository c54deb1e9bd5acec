//! Commands that work on files only: homes, keys, backups.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::support::{accepted, ayni, refused, with_node};

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("--json prints JSON")
}

#[test]
fn init_makes_a_private_home_once() {
    let (dir, home) = with_node();
    for (path, mode) in [("", 0o700), ("keys", 0o700), ("keys/duty.key", 0o600)] {
        let permissions = fs::metadata(home.join(path)).expect("made").permissions();
        assert_eq!(permissions.mode() & 0o777, mode, "{path}");
    }
    let key = fs::read_to_string(home.join("keys/account.key")).expect("made");
    assert!(key.len() == 65 && key.ends_with('\n'));
    refused(&home, &["init"], 1, &["exists already"]);
    assert_eq!(fs::read_to_string(home.join("keys/account.key")).expect("kept"), key);
    assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1);
}

#[test]
fn what_the_user_gives_is_checked_before_anything_is_made() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let home = dir.path().join("home");
    let nonsense = dir.path().join("genesis.json");
    fs::write(&nonsense, "{}").expect("writable");
    let nonsense = nonsense.to_str().expect("UTF-8");
    refused(&home, &["init", "--join", "ayni:abc@/ip4/1.2.3.4/tcp/1"], 2, &["cut off"]);
    refused(&home, &["init", "--genesis", nonsense], 2, &["is not a genesis file", "missing"]);
    refused(&home, &["init", "--genesis", "absent.json"], 2, &["cannot read absent.json"]);
    refused(&home, &["init", "--listen", "localhost:80"], 2, &["[network] listen"]);
    assert!(!home.exists());
    let join = format!("ayni:{}@/ip4/192.0.2.1/tcp/1", "ab".repeat(32));
    accepted(&home, &["init", "--join", &join]);
    let config = fs::read_to_string(home.join("config.toml")).expect("made");
    assert!(config.contains(&format!("join = \"{join}\"")), "{config}");
}

#[test]
fn a_backup_makes_the_same_node_elsewhere() {
    let (dir, home) = with_node();
    let file = dir.path().join("backup.json");
    let file = file.to_str().expect("UTF-8");
    accepted(&home, &["keys", "backup", file]);
    refused(&home, &["keys", "backup", file], 1, &["exists already"]);
    let other = dir.path().join("other");
    let made = json(&accepted(&other, &["keys", "import", file, "--json"]));
    let shown = json(&accepted(&home, &["keys", "show", "--json"]));
    assert_eq!(made["identity"], shown);

    fs::remove_file(home.join("keys/duty.key")).expect("own file");
    refused(&home, &["keys", "backup", "b2"], 1, &["duty.key", "is missing", "keys import"]);
    assert!(accepted(&home, &["keys", "import", file]).contains("Restored: duty"));
    accepted(&home, &["keys", "backup", dir.path().join("b3").to_str().expect("UTF-8")]);
}

#[test]
fn new_keys_need_no_home() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (home, file) = (dir.path().join("home"), dir.path().join("keys.json"));
    let file = file.to_str().expect("UTF-8");
    let drawn = json(&accepted(&home, &["keys", "create", file, "--json"]));
    assert!(!home.exists());
    let made = json(&accepted(&home, &["keys", "import", file, "--json"]));
    assert_eq!(made["identity"], drawn);
    let foreign = dir.path().join("foreign.json");
    let foreign = foreign.to_str().expect("UTF-8");
    accepted(&home, &["keys", "create", foreign]);
    refused(&home, &["keys", "import", foreign], 1, &["another node"]);
}

#[test]
fn bad_key_files_are_named_and_never_quoted() {
    let (_dir, home) = with_node();
    let path = home.join("keys/vrf.key");
    let secret = "c0ffee".repeat(8);
    fs::write(&path, &secret).expect("own file");
    let output = ayni(&home, &["keys", "backup", "unused"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("vrf.key") && error.contains("48 characters"), "{error}");
    assert!(!error.contains("c0ffee"), "{error}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("own file");
    refused(&home, &["keys", "backup", "unused"], 1, &["mode 644", "chmod 600"]);
    assert!(!Path::new("unused").exists());
}

#[test]
fn doctor_says_what_to_mend() {
    let (_dir, home) = with_node();
    let output = ayni(&home, &["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(1), "there is no network yet");
    let report = json(&String::from_utf8_lossy(&output.stdout));
    let outcome = |name: &str| {
        let checks = report["checks"].as_array().expect("a list");
        let check = checks.iter().find(|check| check["name"] == name).expect(name);
        check["outcome"].as_str().expect("a word").to_owned()
    };
    assert_eq!([outcome("home"), outcome("keys"), outcome("permissions")], ["ok"; 3]);
    assert_eq!((outcome("config"), outcome("node")), ("failed".into(), "warning".into()));

    fs::write(home.join("config.toml"), "[netwrk]\n").expect("own file");
    let output = ayni(&home, &["doctor"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("unknown field `netwrk`"), "{text}");
}
