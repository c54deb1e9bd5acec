//! How the local interface says no: a code for programs, a message and a hint for people.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What kind of failure. Clients decide on this, never on the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The thing named does not exist.
    NotFound,
    /// The caller may not do this.
    Denied,
    /// The request is malformed or out of range.
    BadRequest,
    /// The account or allowance has too few credits.
    InsufficientFunds,
    /// Not now: starting, syncing, too busy, no worker.
    Unavailable,
    /// It did not finish in time; it may still happen.
    TimedOut,
    /// It contradicts what is already there.
    Conflict,
    /// A fault of the node.
    Internal,
}

impl ErrorCode {
    /// The HTTP status that carries it.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::NotFound => 404,
            Self::Denied => 403,
            Self::BadRequest => 400,
            Self::InsufficientFunds => 402,
            Self::Unavailable => 503,
            Self::TimedOut => 504,
            Self::Conflict => 409,
            Self::Internal => 500,
        }
    }

    /// The exit code of a program that fails for this reason (design 9).
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::BadRequest => 2,
            Self::Denied => 4,
            Self::NotFound => 5,
            Self::TimedOut => 6,
            Self::InsufficientFunds => 7,
            Self::Unavailable | Self::Conflict | Self::Internal => 1,
        }
    }
}

/// A failure: what happened and why, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct ApiError {
    /// For programs.
    pub code: ErrorCode,
    /// What happened and why, for people.
    pub message: String,
    /// What to do next, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The rule or queue that refused a transaction, for programs: see
    /// [`crate::ledger::Rejection::code`]. Only with transactions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejection: Option<String>,
}

/// The JSON of a failed request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The failure.
    pub error: ApiError,
}

impl ApiError {
    /// A failure without a hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, rejection: None }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds which rule or queue refused a transaction.
    #[must_use]
    pub fn with_rejection(mut self, code: &str) -> Self {
        self.rejection = Some(code.to_owned());
        self
    }

    /// See [`ErrorCode::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    /// See [`ErrorCode::Denied`].
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Denied, message)
    }

    /// See [`ErrorCode::BadRequest`].
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    /// See [`ErrorCode::InsufficientFunds`].
    pub fn insufficient_funds(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InsufficientFunds, message)
    }

    /// See [`ErrorCode::Unavailable`].
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unavailable, message)
    }

    /// See [`ErrorCode::TimedOut`].
    pub fn timed_out(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::TimedOut, message)
    }

    /// See [`ErrorCode::Conflict`].
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Conflict, message)
    }

    /// See [`ErrorCode::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_as_documented() {
        let body = ErrorBody { error: ApiError::not_found("no model x").with_hint("list them") };
        let json = serde_json::to_string(&body).expect("plain types");
        assert_eq!(
            json,
            r#"{"error":{"code":"not_found","message":"no model x","hint":"list them"}}"#
        );
        let refused = ErrorBody { error: ApiError::conflict("m").with_rejection("nonce_used") };
        let json = serde_json::to_string(&refused).expect("plain types");
        let expect = r#"{"error":{"code":"conflict","message":"m","rejection":"nonce_used"}}"#;
        assert_eq!(json, expect);
        let bare = r#"{"error":{"code":"timed_out","message":"m"}}"#;
        let parsed: ErrorBody = serde_json::from_str(bare).expect("hint is optional");
        assert_eq!(parsed.error, ApiError::timed_out("m"));
    }
}
