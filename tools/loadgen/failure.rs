//! Why a run could not be done or did not pass, with the exit code that says so.
//!
//! One line each: what, where, how to go on. Does not print.

use std::fmt;

/// The exit codes of every catamaran program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The check failed: an acknowledged record is lost, duplicated or changed.
    CheckFailed,
    /// Bad arguments or configuration.
    BadArguments,
    /// The environment cannot run it.
    Environment,
    /// A data directory was refused.
    DataRefused,
    /// Stopped by an I/O error.
    Io,
    /// Stopped by a signal from the keyboard or the system.
    Interrupted,
}

impl Exit {
    /// The number the process ends with.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::CheckFailed => 1,
            Self::BadArguments => 2,
            Self::Environment => 3,
            Self::DataRefused => 4,
            Self::Io => 5,
            Self::Interrupted => 130,
        }
    }

    /// What a child of ours meant by its exit code.
    pub(crate) const fn from_child(code: i32) -> Self {
        match code {
            2 => Self::BadArguments,
            3 => Self::Environment,
            4 => Self::DataRefused,
            _ => Self::Io,
        }
    }
}

/// A run that did not come to a good end.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// With which code the process ends.
    pub(crate) exit: Exit,
    /// What, where, how to go on.
    pub(crate) line: String,
}

impl Failure {
    /// A failure that ends the process with `exit`.
    pub(crate) fn new(exit: Exit, line: impl Into<String>) -> Self {
        Self { exit, line: line.into() }
    }

    /// The disk, the network or the operating system said no.
    pub(crate) fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::new(Exit::Io, format!("{what}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}
