//! How a command ends that did not succeed: one line for people, one number for scripts.

use std::process::ExitCode;

use catamaran::config::Problems;
use catamaran::runtime::{self, DataDirError, StartError, StopError};

use crate::terminal;

/// What to say and what to end with (`runtime::ExitCode` lists the numbers).
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    lines: String,
}

/// Nobody knows whether the append happened. A number of its own, because a script that takes it
/// for a failure and tries again writes twice.
const UNKNOWN: u8 = 6;

impl Failure {
    fn new(code: runtime::ExitCode, line: impl Into<String>) -> Self {
        let code = u8::try_from(code.code()).expect("exit codes are small");
        Self { code, lines: line.into() }
    }

    /// Certainly had no effect.
    pub(crate) fn not_done(line: impl Into<String>) -> Self {
        Self::new(runtime::ExitCode::CheckFailed, line)
    }

    /// May have had an effect, or may yet.
    pub(crate) fn unknown(line: impl Into<String>) -> Self {
        Self { code: UNKNOWN, lines: line.into() }
    }

    /// The arguments or the configuration make no sense.
    pub(crate) fn config(line: impl Into<String>) -> Self {
        Self::new(runtime::ExitCode::Config, line)
    }

    /// The machine, or a cluster that cannot be reached, does not let us.
    pub(crate) fn environment(line: impl Into<String>) -> Self {
        Self::new(runtime::ExitCode::Environment, line)
    }

    /// A child process ended with a code of its own (1 to 255) and has said why.
    pub(crate) fn of_child(code: i32, line: impl Into<String>) -> Self {
        match u8::try_from(code) {
            Ok(code @ 1..) => Self { code, lines: line.into() },
            _ => Self::new(runtime::ExitCode::Io, line),
        }
    }

    /// Prints each line, and gives the number to end with.
    pub(crate) fn report(&self) -> ExitCode {
        for line in self.lines.lines() {
            terminal::error(line);
        }
        ExitCode::from(self.code)
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::config(problems.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self::new(error.exit_code(), error.to_string())
    }
}

impl From<DataDirError> for Failure {
    fn from(error: DataDirError) -> Self {
        Self::new(error.exit_code(), error.to_string())
    }
}

impl From<StopError> for Failure {
    fn from(error: StopError) -> Self {
        Self::new(error.exit_code(), error.to_string())
    }
}
