//! Clients that send transfers through nodes which may die at any moment.
//!
//! Two kinds: one asks a node to send and hears when that is final; one signs itself, and hears
//! that its transfer is accepted. A client that hears nothing sends the same bytes again, as it
//! must: it does not know what became of them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail};
use cli::client::Client;
use protocol::amount::Credits;
use protocol::api::{SendRequest, SubmitTransactions};
use protocol::ids::AccountId;
use tokio::time::sleep;

use super::told::Shared;
use crate::network::accounts::Transfer;

/// Pause of a client whose node is down.
const PAUSE: Duration = Duration::from_millis(50);
/// Pause between two transfers of one signer: some in every block, without filling the machine.
const BETWEEN: Duration = Duration::from_millis(60);

/// Set when clients shall end.
pub(super) type Over = Rc<Cell<bool>>;

/// Has a node send credits until it is `over`, and notes what became final.
pub(super) async fn send(client: Client, to: AccountId, told: Shared, over: Over) {
    let request = SendRequest { to, amount_micro: Credits::from_micro(1) };
    while !over.get() {
        match client.send(&request).await {
            Ok(receipt) => told.borrow_mut().finals.push(receipt),
            // Its node is down, or came back and does not know what it was asked.
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Sends signed transfers until it is `over`, and notes which were accepted.
pub(super) async fn submit(
    client: Client,
    transfers: Vec<Transfer>,
    told: Shared,
    over: Over,
) -> Result<()> {
    for transfer in transfers {
        let mut tries = 0_u32;
        loop {
            if over.get() {
                return Ok(());
            }
            tries += 1;
            let request = SubmitTransactions { transactions: vec![transfer.bytes.clone()] };
            let Ok(answer) = client.submit(&request).await else {
                sleep(PAUSE).await;
                continue;
            };
            let Some(result) = answer.results.first() else { bail!("an answer without a result") };
            if result.is_accepted() {
                told.borrow_mut().accepted.insert(transfer.hash);
                break;
            }
            match result.code.as_str() {
                // An earlier try arrived, and its answer was lost with the node.
                "known" | "nonce_used" if tries > 1 => break,
                // A node that has just come back is behind with what it applied; more tries help.
                "nonce_too_far" | "pool_full" | "account_full" => sleep(PAUSE).await,
                code => bail!(
                    "a transfer was refused ({code}): {}",
                    result.message.as_deref().unwrap_or("no reason given")
                ),
            }
        }
        sleep(BETWEEN).await;
    }
    bail!("a client has sent all that it had signed: the storm took longer than foreseen")
}
