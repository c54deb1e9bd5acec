//! A client of the local interface: typed methods over a Unix socket.
//!
//! One connection per request, so that a client can be shared, cloned and kept across restarts of
//! the daemon. Every request has a deadline; streams have one for silence.

mod data;
mod error;
mod events;
mod ledger;
mod methods;
mod transport;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use data::Pieces;
pub use error::ClientError;
pub use events::EventStream;

/// Deadline of a request unless the caller sets another.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(120);

/// A client of one node.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    /// For the daemon whose socket this is. Does not connect yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), timeout: TIMEOUT_DEFAULT }
    }

    /// Sets the deadline of each request.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The deadline of each request.
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }
}
