//! Why a node does not start or had to stop, and the exit code that says so.
//!
//! One line each: what, where, how to go on (O-05). Apart so that every program ends alike.

use core::fmt;
use std::io;
use std::path::PathBuf;

use super::datadir::DataDirError;
use crate::model::ShardId;

/// What a process ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// All is well.
    Good,
    /// What was to be checked does not hold.
    CheckFailed,
    /// Bad arguments or configuration.
    Config,
    /// The environment cannot run it.
    Environment,
    /// The data directory is refused.
    DataDir,
    /// An I/O error stopped it.
    Io,
}

impl ExitCode {
    /// The number for the operating system.
    pub const fn code(self) -> i32 {
        match self {
            Self::Good => 0,
            Self::CheckFailed => 1,
            Self::Config => 2,
            Self::Environment => 3,
            Self::DataDir => 4,
            Self::Io => 5,
        }
    }
}

/// What the machine lacks.
#[derive(Debug)]
pub enum EnvironmentError {
    /// The kernel refuses io_uring.
    NoIoUring {
        /// What it said.
        error: io::Error,
    },
    /// The file system refuses `O_DIRECT`.
    NoDirectIo {
        /// Where.
        directory: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// Somebody else listens there.
    PortInUse {
        /// Address and port.
        address: String,
        /// For whom we wanted it.
        purpose: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// A thread or executor could not be made.
    NoThread {
        /// What it said.
        error: String,
    },
}

impl fmt::Display for EnvironmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoIoUring { error } => write!(
                f,
                "io_uring is not available: {error}: set kernel.io_uring_disabled=0, allow \
                 io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile, or \
                 use a kernel of 5.19 or later"
            ),
            Self::NoDirectIo { directory, error } => write!(
                f,
                "no O_DIRECT: {}: {error}: choose a directory on a real disk, or pass \
                 --allow-buffered (allow_buffered = true) to run without durability",
                directory.display()
            ),
            Self::PortInUse { address, purpose, error } => write!(
                f,
                "cannot listen for {purpose}: {address}: {error}: stop whoever uses that port or \
                 change it in the configuration of every node"
            ),
            Self::NoThread { error } => write!(
                f,
                "cannot start a shard: {error}: check the limits on threads, memory and open files"
            ),
        }
    }
}

impl core::error::Error for EnvironmentError {}

/// Why a node did not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration cannot work.
    Config(String),
    /// The machine lacks something.
    Environment(EnvironmentError),
    /// The data directory is not (in a state to be) ours.
    DataDir(DataDirError),
    /// A shard's log is refused. Nothing on disk was altered.
    Recovery {
        /// Whose.
        shard: ShardId,
        /// Its directory.
        directory: PathBuf,
        /// What recovery found, with segment and offset and how to go on.
        error: String,
    },
    /// The device or file system failed.
    Io {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
}

impl StartError {
    /// What the process should end with.
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::Config,
            Self::Environment(_) => ExitCode::Environment,
            Self::DataDir(error) => error.exit_code(),
            Self::Recovery { .. } => ExitCode::DataDir,
            Self::Io { .. } => ExitCode::Io,
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(fault) => write!(f, "configuration: {fault}: correct it and start again"),
            Self::Environment(error) => error.fmt(f),
            Self::DataDir(error) => error.fmt(f),
            Self::Recovery { shard, directory, error } => {
                write!(f, "the log of shard {shard} is refused: {}: {error}", directory.display())
            }
            Self::Io { what, path, error } => {
                write!(f, "{what} failed: {}: {error}: check the device and start again", {
                    path.display()
                })
            }
        }
    }
}

impl core::error::Error for StartError {}

impl From<EnvironmentError> for StartError {
    fn from(error: EnvironmentError) -> Self {
        Self::Environment(error)
    }
}

impl From<DataDirError> for StartError {
    fn from(error: DataDirError) -> Self {
        Self::DataDir(error)
    }
}
