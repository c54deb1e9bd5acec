//! The rules: how a block changes the state.
//!
//! [`apply_block`] is the only way the state changes. It is a pure function of the state, the
//! header and the verified contents; a block that breaks a rule is refused as a whole, so a block
//! never carries a failed transaction. One module per family of transactions; [`rounds`] holds
//! the phase machine of training rounds that runs at the end of every block.
//!
//! Credits are conserved: every rule moves them between places that [`audit`] adds up, or goes
//! through [`state::State::mint`] and [`state::State::burn`].

mod accounts;
mod apply;
pub mod audit;
pub mod beacon;
mod contributions;
mod data;
pub mod entries;
pub mod fees;
pub mod genesis;
pub mod governance;
pub mod parameters;
mod rejection;
mod reviews;
mod rewards;
pub mod rounds;
pub mod staking;
pub mod state;
pub mod weights;

pub use apply::{AppliedBlock, BlockError, NotAdded, OpenBlock, apply_block, try_transaction};
pub use rejection::Rejection;
pub use staking::check_evidence;
