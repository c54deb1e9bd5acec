//! How a command fails: an exit code (design 9), what happened and why, what to do next.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use ayni_cli::amount::AmountError;
use ayni_cli::client::ClientError;
use ayni_cli::config::ConfigFileError;
use ayni_cli::home::HomeError;
use ayni_cli::keys::KeysError;
use protocol::api::ErrorCode;
use serde_json::json;

use crate::output;

/// Failed for a reason that has no code of its own.
pub(crate) const FAILED: u8 = 1;
/// The command line is wrong.
pub(crate) const USAGE: u8 = 2;
/// There is no daemon.
pub(crate) const DOWN: u8 = 3;
/// There is no such thing.
pub(crate) const NOT_FOUND: u8 = 5;
/// It took too long.
pub(crate) const TIMED_OUT: u8 = 6;
/// Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
    /// What the node said, for programs.
    reason: Option<ErrorCode>,
    rejection: Option<String>,
}

impl Failure {
    /// What happened.
    #[cfg(test)]
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// With an exit code and what happened.
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, reason: None, rejection: None }
    }

    /// Adds what to do next.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Ctrl-C.
    pub(crate) fn interrupted() -> Self {
        Self::new(INTERRUPTED, "interrupted")
    }

    /// The reader of the output has gone, as `head` does: nothing to report.
    pub(crate) fn reader_gone() -> Self {
        Self::new(0, "")
    }

    fn chained(code: u8, error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !message.ends_with(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        Self::new(code, message)
    }

    /// Prints it and gives the exit code.
    pub(crate) fn report(self, json: bool) -> ExitCode {
        if self.message.is_empty() {
            return ExitCode::from(self.code);
        }
        if json {
            let error = json!({
                "message": self.message,
                "hint": self.hint,
                "exit_code": self.code,
                "code": self.reason,
                "rejection": self.rejection,
            });
            output::complain(&json!({ "error": error }).to_string());
        } else {
            output::complain(&format!("ayni: {}", output::clean(&self.message)));
            if let Some(hint) = &self.hint {
                output::complain(&format!("      {}", output::clean(hint)));
            }
        }
        ExitCode::from(self.code)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let rejection = match &error {
            ClientError::Api(error) => error.rejection.clone(),
            _ => None,
        };
        let (hint, reason) = (error.hint(), error.code());
        Self { hint, reason, rejection, ..Self::chained(error.exit_code(), &error) }
    }
}

impl From<HomeError> for Failure {
    fn from(error: HomeError) -> Self {
        let code = match &error {
            HomeError::Missing(_) => DOWN,
            HomeError::Unknown => USAGE,
            HomeError::Config(_) => USAGE,
            _ => FAILED,
        };
        Self::chained(code, &error)
    }
}

impl From<KeysError> for Failure {
    fn from(error: KeysError) -> Self {
        Self::chained(FAILED, &error)
    }
}

impl From<ConfigFileError> for Failure {
    fn from(error: ConfigFileError) -> Self {
        Self::chained(USAGE, &error)
    }
}

impl From<AmountError> for Failure {
    fn from(error: AmountError) -> Self {
        Self::chained(USAGE, &error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::chained(FAILED, &error)
    }
}
