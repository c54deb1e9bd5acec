//! The consensus engine: Malachite over our network, behind a small [`Application`] trait.
//!
//! ```text
//! swarm task --EngineEvent--> pump --NetworkEvent--> consensus, sync (Malachite actors)
//!     ^                       checks signatures          |         |
//!     +---- NetworkHandle <---- network actor <----------+         AppMsg
//!                                                                  v
//!                            Application (the node) <---------- app loop
//! ```
//!
//! **Architecture invariant.** The engine decides *when* to vote. What is signed, what a valid
//! block is and who proposes are `protocol`'s; what is remembered is `storage`'s, reached through
//! [`Application`] and [`VoteGuard`]. Nothing here touches the ledger, and no byte of a peer
//! reaches the engine before [`codec`] has bounded and decoded it.

mod abstention;
mod app;
pub mod application;
pub mod certificate;
pub mod codec;
pub mod context;
mod gossip;
mod network_actor;
mod proposals;
pub mod signing;
mod start;
pub mod wal;

pub use app::SYNCED_ROUND;
pub use application::{Application, ApplicationError, BlockVerdict, BuildRequest, Offered};
pub use certificate::to_protocol_certificate;
pub use malachite_core_types::LinearTimeouts;
pub use signing::{GuardError, GuardStep, VoteGuard};
pub use start::{Engine, EngineConfig, EngineStatus, start};
