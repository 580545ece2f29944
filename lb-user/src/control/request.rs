//! What a command wants changed: the verbs, with every value checked as far as it can be without looking at the table.

use super::model::{DaemonRow, DestConf, DestId, OnDown, Persistence, Role, ServiceId, Timeouts};

/// A service's settings as asked for. Scheduler and engine are still names: whether they exist is known only after
/// whether the service exists, and the first complaint wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAsk {
    /// Scheduler by name.
    pub scheduler: String,
    /// Scheduler flags in IPVS's bits.
    pub sched_flags: u32,
    /// One-packet scheduling.
    pub ops: bool,
    /// Persistence.
    pub persistence: Option<Persistence>,
    /// Persistence engine by name.
    pub engine: Option<String>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `-A`
    AddService {
        /// Which.
        id: ServiceId,
        /// How.
        ask: ServiceAsk,
    },
    /// `-E`: replaces every setting.
    EditService {
        /// Which.
        id: ServiceId,
        /// How.
        ask: ServiceAsk,
    },
    /// `-D`
    DeleteService {
        /// Which.
        id: ServiceId,
    },
    /// `-C`
    Clear,
    /// `-a`
    AddDest {
        /// Of which service.
        service: ServiceId,
        /// Which.
        dest: DestId,
        /// How.
        conf: DestConf,
    },
    /// `-e`: replaces every setting.
    EditDest {
        /// Of which service.
        service: ServiceId,
        /// Which.
        dest: DestId,
        /// How.
        conf: DestConf,
    },
    /// `-d`
    DeleteDest {
        /// Of which service.
        service: ServiceId,
        /// Which.
        dest: DestId,
    },
    /// A dest was found dead, or is so no longer. No command of ipvsadm's.
    SetFate {
        /// Of which service.
        service: ServiceId,
        /// Which.
        dest: DestId,
        /// What becomes of its connections; `None`: it lives.
        fate: Option<OnDown>,
    },
    /// `-Z`
    Zero {
        /// Which; `None` = everything.
        service: Option<ServiceId>,
    },
    /// `--set`; 0 keeps the present value.
    SetTimeouts(Timeouts),
    /// `--start-daemon`
    StartDaemon(DaemonRow),
    /// `--stop-daemon`
    StopDaemon {
        /// Sender or receiver.
        role: Role,
        /// As given; not looked at, as in IPVS.
        syncid: u8,
    },
}
