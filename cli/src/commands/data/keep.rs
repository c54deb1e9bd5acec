//! What stays in the store and what goes: `ayni data pin`, `unpin`, `rm`, `gc` and `verify`.

use protocol::api::{
    GcRequest, JobResult, PinName, PinRequest, RemoveRequest, UnpinRequest, VerifyRequest,
};
use protocol::ids::ContentHash;

use super::PinArguments;
use super::blobs::describe_pin;
use crate::context::Context;
use crate::failure::{FAILED, Failure};
use crate::output::table;
use crate::text;

/// Seconds of a day.
const DAY_S: u64 = 86_400;

pub(super) async fn pin(context: &Context, arguments: PinArguments) -> Result<(), Failure> {
    let request = PinRequest {
        hash: arguments.hash,
        name: arguments.name,
        lease_s: arguments.days.map(|days| days.saturating_mul(DAY_S)),
        announce: !arguments.no_announce,
    };
    let pin = context.client()?.pin(&request).await?;
    context.output.show(&pin, || format!("{} is kept: {}.", pin.hash, describe_pin(&pin)))
}

pub(super) async fn unpin(context: &Context, pin: PinName) -> Result<(), Failure> {
    let gone = context.client()?.unpin(&UnpinRequest { pin }).await?;
    context.output.show(&gone, || {
        let count = text::counted(u64::try_from(gone.pins.len()).unwrap_or(u64::MAX), "pin");
        let rows = gone.pins.iter().map(|pin| vec![pin.hash.to_string(), describe_pin(pin)]);
        format!(
            "{}{count} taken away. What nothing keeps goes with `ayni data gc`.",
            table(&["HASH", "PIN"], rows, "")
        )
    })
}

pub(super) async fn remove(
    context: &Context,
    hash: ContentHash,
    force: bool,
) -> Result<(), Failure> {
    let gone = context.client()?.remove_blob(&RemoveRequest { hash, force }).await?;
    context.output.show(&gone, || {
        format!("Removed {} ({}).", text::counted(gone.blobs, "blob"), text::bytes(gone.bytes))
    })
}

pub(super) async fn collect(context: &Context, dry_run: bool) -> Result<(), Failure> {
    let client = context.client()?;
    let job = client.collect_garbage(&GcRequest { dry_run }).await?;
    let result = context.wait(&client, job).await?;
    context.output.show(&result, || {
        let JobResult::GcData {
            dry_run,
            blobs_kept,
            bytes_kept,
            blobs_removed,
            bytes_removed,
            pins_expired,
            ..
        } = &result
        else {
            return "Done.".to_owned();
        };
        let verb = if *dry_run { "Would remove" } else { "Removed" };
        let expired = match pins_expired {
            0 => String::new(),
            count => format!(" The lease of {} has run out.", text::counted(*count, "pin")),
        };
        format!(
            "{verb} {} ({}); {} ({}) stay.{expired}",
            text::counted(*blobs_removed, "blob"),
            text::bytes(*bytes_removed),
            text::counted(*blobs_kept, "blob"),
            text::bytes(*bytes_kept)
        )
    })
}

pub(super) async fn verify(
    context: &Context,
    hash: Option<ContentHash>,
    repair: bool,
) -> Result<(), Failure> {
    let client = context.client()?;
    let job = client.verify_data(&VerifyRequest { hash, repair }).await?;
    let result = context.wait_transfer(&client, job).await?;
    context.output.show(&result, || verified(&result))?;
    match result {
        JobResult::VerifyData { damages, repaired, .. } if damages > repaired => {
            let left = text::counted(damages.saturating_sub(repaired), "problem");
            Err(Failure::new(FAILED, format!("{left} in the store")).with_hint(
                "`ayni data verify --repair` mends what can be mended, removes the rest",
            ))
        }
        _ => Ok(()),
    }
}

fn verified(result: &JobResult) -> String {
    let JobResult::VerifyData { blobs, bytes, damage, damages, repaired, elapsed_ms } = result
    else {
        return "Done.".to_owned();
    };
    let rows = damage.iter().map(|one| {
        let hash = one.hash.map_or_else(|| "-".to_owned(), |hash| hash.to_string());
        let state = if one.repaired { "repaired" } else { "left" };
        vec![hash, one.problem.clone(), state.to_owned()]
    });
    format!(
        "{}Read {} ({}) in {}: {} found, {repaired} repaired.",
        table(&["BLOB", "PROBLEM", "NOW"], rows, ""),
        text::counted(*blobs, "blob"),
        text::bytes(*bytes),
        text::duration(*elapsed_ms),
        text::counted(*damages, "problem")
    )
}
