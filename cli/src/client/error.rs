//! How a request can fail.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use protocol::api::{ApiError, ErrorCode};
use protocol::home::SocketPathTooLong;
use thiserror::Error;

/// Why there is no answer, or a negative one.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody answers at the socket.
    #[error("the node is not running: nobody answers at {socket:?}")]
    Down {
        /// The socket.
        socket: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// The system does not let us open the socket.
    #[error("the socket {socket:?} belongs to another user")]
    Forbidden {
        /// The socket.
        socket: PathBuf,
    },
    /// A Unix socket cannot have such a path.
    #[error(transparent)]
    SocketPath(#[from] SocketPathTooLong),
    /// The connection broke before the answer was complete.
    #[error("the node closed the connection before it had answered")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No answer in time.
    #[error("the node has not answered within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// The answer is not what this version of the interface gives.
    #[error("the node's answer is not understood: {0}")]
    Malformed(String),
    /// The node said no.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl ClientError {
    /// The node's reason, if it gave one.
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Api(error) => Some(error.code),
            _ => None,
        }
    }

    /// The exit code of a program that fails for this reason (design 9).
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Down { .. } | Self::Broken(_) => 3,
            Self::Forbidden { .. } => 4,
            Self::TimedOut(_) => 6,
            Self::SocketPath(_) => 2,
            Self::Malformed(_) => 1,
            Self::Api(error) => error.code.exit_code(),
        }
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Down { .. } => "start it with `ayni node start`, or name its home with --home",
            Self::Forbidden { .. } => "run the command as the user as whom aynid runs",
            Self::Broken(_) => "look with `ayni node logs` whether it stopped, and why",
            Self::TimedOut(_) => "it may still do it: look with `ayni status`, or allow --timeout",
            Self::Malformed(_) => "are `ayni` and `aynid` of the same version?",
            Self::SocketPath(_) => return None,
            Self::Api(error) => return error.hint.clone(),
        };
        Some(text.to_owned())
    }
}
