//! What nodes said while they lived. Nothing of it may be untrue afterwards.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use cli::client::Client;
use protocol::amount::Height;
use protocol::api::{NodeEvent, TransactionReceipt};
use protocol::ids::{BlockHash, TransactionHash};
use tokio::time::sleep;

/// Pause before a node that does not answer is asked for its news again.
const PAUSE: Duration = Duration::from_millis(20);

/// Shared between the listeners, the clients and the storm, on one thread.
pub(super) type Shared = Rc<RefCell<Told>>;

/// Everything that was said.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Blocks that some node called applied.
    pub(super) blocks: BTreeMap<Height, BlockHash>,
    /// The highest of them, by node.
    pub(super) highest: Vec<Height>,
    /// How often a node told of a block.
    pub(super) news: u64,
    /// Nodes whose news are being read.
    listening: BTreeSet<usize>,
    /// Transactions that clients were told to be final, and where.
    pub(super) finals: Vec<TransactionReceipt>,
    /// Transactions that clients were told to be accepted.
    pub(super) accepted: BTreeSet<TransactionHash>,
    /// Two different blocks told for one height, in words.
    pub(super) contradictions: Vec<String>,
}

impl Told {
    pub(super) fn new(nodes: usize) -> Shared {
        let told = Self { highest: vec![Height::ZERO; nodes], ..Self::default() };
        Rc::new(RefCell::new(told))
    }

    /// Writes down that `node` calls a block applied.
    pub(super) fn block(&mut self, node: usize, height: Height, hash: BlockHash) {
        self.news += 1;
        let first = *self.blocks.entry(height).or_insert(hash);
        if first != hash {
            self.contradictions.push(format!(
                "node-{node} told of block {height} as {hash}, before it was {first}"
            ));
        }
        if let Some(highest) = self.highest.get_mut(node) {
            *highest = height.max(*highest);
        }
    }

    /// The highest block that `node` told of.
    pub(super) fn highest(&self, node: usize) -> Height {
        self.highest.get(node).copied().unwrap_or(Height::ZERO)
    }

    /// The highest block that anybody told of.
    pub(super) fn tip(&self) -> Height {
        self.blocks.last_key_value().map_or(Height::ZERO, |(height, _)| *height)
    }

    /// Whether more news of `node` may come.
    pub(super) fn is_listening(&self, node: usize) -> bool {
        self.listening.contains(&node)
    }
}

/// Reads the news of a node, again whenever it is back; never returns.
pub(super) async fn listen(node: usize, client: Client, told: Shared) {
    loop {
        if let Ok(mut events) = client.events().await {
            told.borrow_mut().listening.insert(node);
            // What was sent before a kill is still read; then the stream ends.
            while let Some(Ok(event)) = events.next().await {
                if let NodeEvent::Block { height, hash, .. } = event {
                    told.borrow_mut().block(node, height, hash);
                }
            }
            told.borrow_mut().listening.remove(&node);
        }
        sleep(PAUSE).await;
    }
}
