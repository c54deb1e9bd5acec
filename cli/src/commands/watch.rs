//! `--watch`: what is asked now, and again after every block that changes it, until Ctrl-C.

use ayni_cli::client::{Client, ClientError, EventStream};
use protocol::amount::Height;
use protocol::api::NodeEvent;
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;

/// The blocks of a node as they come.
pub(crate) struct NewBlocks(EventStream<NodeEvent>);

impl NewBlocks {
    /// From now on. To be made before the first question, so that no change falls in between.
    pub(crate) async fn follow(client: &Client) -> Result<Self, ClientError> {
        Ok(Self(client.events().await?))
    }

    /// Height of the next block; `None` when the node has stopped. Blocks may be left out when
    /// they come faster than they are asked for.
    pub(crate) async fn next(&mut self) -> Result<Option<Height>, Failure> {
        while let Some(event) = self.0.next().await {
            if let NodeEvent::Block { height, .. } = event? {
                return Ok(Some(height));
            }
        }
        Ok(None)
    }
}

/// Shows what `ask` answers, once or whenever a block changes it. A change is one line of JSON for
/// programs; `people`'s text and an empty line for people. What every block changes, as the height,
/// is no change: `same` leaves it out.
pub(crate) async fn show<T: Serialize>(
    context: &Context,
    watch: bool,
    ask: impl AsyncFn(&Client) -> Result<T, ClientError>,
    same: impl Fn(&T, &T) -> bool,
    people: impl Fn(&T) -> String,
) -> Result<(), Failure> {
    let client = context.client()?;
    if !watch {
        let answer = ask(&client).await?;
        return context.output.show(&answer, || people(&answer));
    }
    let mut blocks = NewBlocks::follow(&client).await?;
    let mut shown: Option<T> = None;
    loop {
        let answer = ask(&client).await?;
        if shown.as_ref().is_none_or(|shown| !same(shown, &answer)) {
            context.output.stream(&answer, || format!("{}\n", people(&answer).trim_end()))?;
            shown = Some(answer);
        }
        if blocks.next().await?.is_none() {
            return ended(context);
        }
    }
}

/// Says that there is nothing more to watch.
pub(crate) fn ended(context: &Context) -> Result<(), Failure> {
    context.output.remark("The node has stopped.")
}
