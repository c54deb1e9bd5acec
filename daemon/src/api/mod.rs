//! The local interface: HTTP/1.1 + JSON over a Unix socket (design 9).
//!
//! The server authorises, bounds and translates; what a request means is the node's business,
//! behind [`Backend`]. Nothing here reads the ledger, a blob or a key.
//!
//! Who asks is known from the socket's peer credentials: the daemon's own user and root may do
//! everything; a path is opened for the daemon's own user only; members of a configured group may
//! read; everybody else is refused.
//!
//! [`Server::bind`] takes the socket, so that a second daemon fails early and clearly;
//! [`Server::serve`] answers until it is told to stop.

mod access;
mod backend;
mod extract;
mod handlers;
mod jobs;
mod server;
mod socket;
mod stream;
#[cfg(test)]
mod tests;
mod utf8;

pub use backend::{Backend, GenerateOutput, Piece};
pub use jobs::{JOBS_FINISHED_MAX, JOBS_RUNNING_MAX, JobHandle, Jobs};
pub use server::{Server, ServerOptions};
pub use socket::BindError;
