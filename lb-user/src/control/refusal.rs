//! Why a change was refused, and the words ipvsadm has for it.

use std::{fmt, io};

/// A refusal. Its text is the line the command prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `-A` of one that is there (EEXIST).
    ServiceExists,
    /// `-E`, `-D`, `-Z`, `-L` of one that is not (ESRCH).
    NoSuchService,
    /// `-a`, `-e`, `-d` in a service that is not there (ESRCH).
    ServiceNotDefined,
    /// Unknown scheduler or engine (ENOENT).
    SchedulerNotFound,
    /// `-a` of one that is there (EEXIST).
    DestExists,
    /// `-e`, `-d` of one that is not (ENOENT).
    NoSuchDest,
    /// `--start-daemon` twice (EEXIST).
    DaemonRuns,
    /// `--stop-daemon` without one (ESRCH).
    NoDaemon,
    /// Not root (EPERM).
    Permission,
    /// A value the balancer cannot take: an address that is not unicast, mixed families, … (EINVAL).
    Invalid,
    /// Lower threshold above the upper one (ERANGE).
    OutOfRange,
    /// The NIC does not exist (ENODEV).
    NoSuchDevice,
    /// A table is full (ENOMEM).
    NoMemory,
    /// IPVS has it, this balancer does not yet: which feature, and what to do about it.
    Unsupported(String),
    /// The store itself failed: what happened.
    Failed(String),
}

/// What the control side returns.
pub type Result<T> = std::result::Result<T, Refusal>;

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ServiceExists => "Service already exists",
            Self::NoSuchService => "No such service",
            Self::ServiceNotDefined => "Service not defined",
            Self::SchedulerNotFound => "Scheduler or persistence engine not found",
            Self::DestExists => "Destination already exists",
            Self::NoSuchDest => "No such destination",
            Self::DaemonRuns => "Daemon has already run",
            Self::NoDaemon => "No daemon is running",
            Self::Permission => "Permission denied (you must be root)",
            Self::Invalid => "Invalid operation.  Possibly wrong module version, address not unicast, ...",
            Self::OutOfRange => "Numerical result out of range",
            Self::NoSuchDevice => "No such device",
            Self::NoMemory => "Memory allocation problem",
            Self::Unsupported(what) | Self::Failed(what) => what,
        })
    }
}

impl std::error::Error for Refusal {}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission,
            io::ErrorKind::OutOfMemory => Self::NoMemory,
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(refusal) => refusal,
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }
}
