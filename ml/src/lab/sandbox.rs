//! `ayni-worker lab sandbox`: confines itself as a worker does, tries to get out and tells what
//! was refused. For whoever does not want to take the sandbox on trust.

use std::fs::File;
use std::io::{Error, ErrorKind, Read as _};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use serde_json::json;

use crate::figures::{CommandError, Figures};
use crate::sandbox::confine;

/// Where to work.
#[derive(Debug, Args)]
pub struct Options {
    /// The job directory: the only place that may be written
    #[arg(long)]
    dir: PathBuf,
    /// A file outside, which must not be readable [default: the user's shell history and the
    /// like cannot be guessed; /etc/passwd]
    #[arg(long, default_value = "/etc/passwd")]
    outside: PathBuf,
}

/// Confines itself and tries.
pub fn run(options: &Options) -> Result<Figures, CommandError> {
    let inside = options.dir.join("inside");
    let status = confine(&options.dir, false);
    let attempts: [(&str, bool, Result<(), Error>); 9] = [
        ("write a file in the job directory", true, std::fs::write(&inside, b"x")),
        ("read it again", true, std::fs::read(&inside).map(drop)),
        ("read a file outside", false, read(&options.outside)),
        ("list the root directory", false, std::fs::read_dir("/").map(drop)),
        ("write a file in /tmp", false, write_outside()),
        ("open a TCP connection", false, TcpStream::connect("127.0.0.1:9").map(drop)),
        ("open a UDP socket", false, UdpSocket::bind("127.0.0.1:0").map(drop)),
        ("open a Unix socket", false, UnixStream::pair().map(drop)),
        ("start a program", false, Command::new("/bin/true").status().map(drop)),
    ];
    let mut rows = vec![vec!["ATTEMPT".to_owned(), "RESULT".to_owned(), String::new()]];
    let mut results = Vec::new();
    let mut missed = Vec::new();
    for (attempt, allowed, result) in attempts {
        let refused = result.as_ref().is_err_and(|e| e.kind() == ErrorKind::PermissionDenied);
        let fine = if allowed { result.is_ok() } else { refused };
        let word = match &result {
            Ok(()) => "done".to_owned(),
            Err(_) if refused => "refused".to_owned(),
            Err(error) => error.to_string(),
        };
        if !fine {
            missed.push(format!("{attempt}: {word}"));
        }
        let mark = if fine { "as it should be" } else { "WRONG" };
        rows.push(vec![attempt.to_owned(), word.clone(), mark.to_owned()]);
        results.push(json!({ "attempt": attempt, "result": word, "fine": fine }));
    }
    let mut table = Figures::align(&rows);
    table.push_str(&format!(
        "\nLandlock version {}, {}, {}\n",
        status.landlock_abi,
        if status.no_network { "no network" } else { "the network is open" },
        if status.filtered { "system calls filtered" } else { "system calls not filtered" },
    ));
    let json = json!({
        "attempts": results,
        "landlock_abi": status.landlock_abi,
        "no_network": status.no_network,
        "filtered": status.filtered,
    });
    Ok(Figures { table, json, missed })
}

fn read(path: &PathBuf) -> Result<(), Error> {
    File::open(path)?.read(&mut [0]).map(drop)
}

/// A name that nobody else has; removed again if it could be written.
fn write_outside() -> Result<(), Error> {
    let path = std::env::temp_dir().join(format!("ayni-sandbox-{}", std::process::id()));
    std::fs::write(&path, b"x")?;
    std::fs::remove_file(&path)
}
