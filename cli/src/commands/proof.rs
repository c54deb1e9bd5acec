//! `ayni verify-proof`: without a node, from one trusted block alone.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use ayni_cli::amount::format_credits;
use clap::Args;
use protocol::amount::{Credits, Height};
use protocol::api::TrustedPoint;
use protocol::codec::{self, Canonical as _};
use protocol::ids::{AccountId, ChainId, StateRoot};
use protocol::ledger::entries::Account;
use protocol::ledger::state::account_of_key;
use protocol::proof::{self, Proof, ProofError, Proven};
use serde::Serialize;

use crate::context::Context;
use crate::failure::{FAILED, Failure};
use crate::output::pairs;

/// A proof and what its reader trusts.
#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// File with the proof, as bytes or in hexadecimal
    file: PathBuf,
    /// Block that you trust, for example from somebody who runs a node
    #[arg(long, value_name = "HEIGHT:HASH")]
    trusted: TrustedPoint,
    /// Network that it must be [default: the one of the trusted block]
    #[arg(long, value_name = "ID")]
    chain: Option<ChainId>,
}

/// What a proof establishes.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Verified {
    valid: bool,
    chain: ChainId,
    account: AccountId,
    /// Whether the account is on the ledger at all.
    exists: bool,
    balance_micro: Credits,
    /// Block after which it is so.
    height: Height,
    state_root: StateRoot,
    trusted: TrustedPoint,
}

/// Checks it; the first thing wrong is the failure.
pub(crate) fn run(context: &Context, arguments: &VerifyArguments) -> Result<(), Failure> {
    let bytes = read(&arguments.file)?;
    let verified = verify(&bytes, arguments.trusted, arguments.chain)?;
    context.output.show(&verified, || describe(&verified))
}

/// The bytes of a proof, of which no more are read than one may have.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let shown = path.display();
    let failed = |error| Failure::new(FAILED, format!("cannot read {shown}: {error}"));
    let most = Proof::BYTES_MAX.saturating_mul(2).saturating_add(2);
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > most {
        return Err(Failure::new(FAILED, format!("{shown} is larger than any proof")));
    }
    Ok(hex::decode(bytes.trim_ascii()).unwrap_or(bytes))
}

fn verify(
    bytes: &[u8],
    trusted: TrustedPoint,
    chain: Option<ChainId>,
) -> Result<Verified, Failure> {
    let refused = |what: String| Failure::new(FAILED, format!("the proof is refused: {what}"));
    let proof: Proof =
        codec::decode(bytes).map_err(|error| refused(ProofError::from(error).to_string()))?;
    // The trusted hash covers the header, and with it the network.
    let chain = chain.unwrap_or(proof.trusted.chain);
    let proven = proof::verify(trusted.height, &trusted.hash, &chain, &proof)
        .map_err(|error| refused(error.to_string()))?;
    let Proven { height, root, key, value } = proven;
    let account = account_of_key(&key)
        .ok_or_else(|| refused("it is about another entry than an account".to_owned()))?;
    let entry: Option<Account> = value
        .map(|value| codec::decode(&value))
        .transpose()
        .map_err(|error| refused(format!("the account's entry is not understood: {error}")))?;
    Ok(Verified {
        valid: true,
        chain,
        account,
        exists: entry.is_some(),
        balance_micro: entry.map_or(Credits::ZERO, |entry| entry.balance),
        height,
        state_root: root,
        trusted,
    })
}

fn describe(verified: &Verified) -> String {
    let balance = format_credits(verified.balance_micro);
    let unknown = if verified.exists { "" } else { " (it is not on the ledger)" };
    let rows = [
        ("account", verified.account.to_string()),
        ("balance", format!("{balance} credits{unknown}")),
        ("after block", verified.height.to_string()),
        ("state root", verified.state_root.to_string()),
        ("trusted", verified.trusted.to_string()),
        ("chain", verified.chain.to_string()),
    ];
    format!("The proof holds, if the trusted block is of the chain.\n{}", pairs(&rows))
}
