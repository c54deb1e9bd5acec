//! `ayni credits balance --prove`.

use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

use ayni_cli::amount::format_credits;
use protocol::api::{BalanceProof, ProofQuery, TrustedBy};

use super::BalanceArguments;
use crate::context::Context;
use crate::failure::{FAILED, Failure, USAGE};
use crate::output::pairs;

/// Asks for the proof and writes it where it was asked for.
pub(super) async fn run(context: &Context, arguments: BalanceArguments) -> Result<(), Failure> {
    let BalanceArguments { account, out, trusted, .. } = arguments;
    if out.as_deref().is_some_and(Path::exists) {
        return Err(Failure::new(USAGE, "the file for the proof exists already")
            .with_hint("choose another name, or remove it"));
    }
    let query = ProofQuery {
        account,
        trusted_height: trusted.map(|point| point.height),
        trusted_hash: trusted.map(|point| point.hash),
    };
    let proof = context.client()?.proof(query).await?;
    if let Some(path) = &out {
        write(path, &proof)?;
    }
    context.output.show(&proof, || describe(&proof, out.as_deref()))
}

fn write(path: &Path, proof: &BalanceProof) -> Result<(), Failure> {
    let refused = |error: &dyn std::error::Error| {
        Failure::new(FAILED, format!("cannot write {}: {error}", path.display()))
    };
    let bytes = hex::decode(&proof.proof).map_err(|error| refused(&error))?;
    let mut file = match File::create_new(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(refused(&error).with_hint("choose another name, or remove it"));
        }
        Err(error) => return Err(refused(&error)),
    };
    let written: io::Result<()> = file.write_all(&bytes).and_then(|()| file.sync_all());
    written.map_err(|error| refused(&error))
}

fn describe(proof: &BalanceProof, out: Option<&Path>) -> String {
    let by = match proof.trusted_by {
        TrustedBy::Caller => "as you named it",
        TrustedBy::JoinString => "from this node's join string",
        TrustedBy::FirstBlock => "the first block of this node's chain",
    };
    let rows = [
        ("account", proof.account.to_string()),
        ("balance", format!("{} credits", format_credits(proof.balance_micro))),
        ("after block", proof.height.to_string()),
        ("trusted", format!("{} ({by})", proof.trusted)),
        ("chain", proof.chain.to_string()),
        ("bridges", proof.bridges.to_string()),
        ("size", format!("{} bytes", proof.proof.len() / 2)),
    ];
    let (document, file) = match out {
        Some(path) => {
            (format!("The proof's bytes are in {}.\n", path.display()), path.display().to_string())
        }
        None => (format!("The proof in hexadecimal:\n{}\n", proof.proof), "FILE".to_owned()),
    };
    format!(
        "{}{document}Whoever trusts that block checks it without a node:\n  \
         ayni verify-proof {file} --trusted {}",
        pairs(&rows),
        proof.trusted
    )
}
