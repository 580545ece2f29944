//! Where the tables are kept: the BPF maps, or ordinary memory in tests.

use std::net::IpAddr;

use super::address::AddressKind;
use super::mark::Rule;
use super::model::{
    ConnRow, DaemonRow, DestConf, DestId, OnDown, Role, Service, ServiceConf, ServiceId, Timeouts,
};
use super::refusal::Result;
use super::request::Request;
use super::sysctl::Sysctls;

/// A service without its dests: what the rules need to know of it, cheaply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// How it is set.
    pub conf: ServiceConf,
    /// How many dests it has.
    pub dests: usize,
}

/// The tables. Whoever implements it keeps what it is given and computes what follows from it (dest lists, scheduler
/// tables, wrr's gcd, overload flags); it need not check the rules, [`super::balancer::Balancer`] has done so:
/// it only ever adds what is not there, and edits or deletes what is.
///
/// Every change is whole: a packet sees the old table or the new one.
pub trait Store {
    /// The whole table in dump order: address services, then mark services, each with its dests newest first.
    fn services(&self) -> Result<Vec<Service>>;
    /// One service with its dests.
    fn service(&self, id: &ServiceId) -> Result<Option<Service>>;
    /// One service without them.
    fn head(&self, id: &ServiceId) -> Result<Option<Head>>;
    /// Has the service this dest? False too if there is no such service.
    fn has_dest(&self, service: &ServiceId, dest: &DestId) -> Result<bool>;

    /// Adds a service without dests.
    fn add_service(&mut self, id: &ServiceId, conf: &ServiceConf) -> Result<()>;
    /// Replaces a service's settings. Statistics, dests and connections stay; so does the scheduler's memory if
    /// the scheduler stays.
    fn edit_service(&mut self, id: &ServiceId, conf: &ServiceConf) -> Result<()>;
    /// Deletes a service and its dests. Connections live on until they expire.
    fn delete_service(&mut self, id: &ServiceId) -> Result<()>;

    /// Adds a dest at the head of its service's list, reviving a deleted one whose connections still live.
    fn add_dest(&mut self, service: &ServiceId, dest: &DestId, conf: &DestConf) -> Result<()>;
    /// Replaces a dest's settings. Its place in the list stays.
    fn edit_dest(&mut self, service: &ServiceId, dest: &DestId, conf: &DestConf) -> Result<()>;
    /// Notes that a dest was found dead, and drops its datagrams' connections, or that it is so no longer. A dest that gets
    /// weight, or comes back after its deletion, is so no longer either.
    fn set_fate(&mut self, service: &ServiceId, dest: &DestId, fate: Option<OnDown>) -> Result<()>;
    /// Deletes a dest.
    fn delete_dest(&mut self, service: &ServiceId, dest: &DestId) -> Result<()>;

    /// Deletes every service. Timeouts, daemons and connections stay.
    fn clear(&mut self) -> Result<()>;
    /// Zeroes the counters and rates of one service and its dests, or all of them and the total.
    fn zero(&mut self, service: Option<&ServiceId>) -> Result<()>;

    /// The timeouts in force.
    fn timeouts(&self) -> Result<Timeouts>;
    /// Sets all three.
    fn set_timeouts(&mut self, timeouts: &Timeouts) -> Result<()>;

    /// Connections and templates, in any order.
    fn conns(&self) -> Result<Vec<ConnRow>>;
    /// The connections of these dests, whether they are deleted or not.
    fn conns_of(&self, dests: &[(ServiceId, DestId)]) -> Result<Vec<ConnRow>>;
    /// Size of the connection table, as the first line of a listing tells it. IPVS's default, so that texts stay
    /// comparable: what ours really holds is `lb-user status`'s to say.
    fn table_size(&self) -> u32 {
        4096
    }

    /// Sync daemons that run, at most one of each role.
    fn daemons(&self) -> Result<Vec<DaemonRow>> {
        Ok(Vec::new())
    }
    /// The MTU of the NIC a daemon is to use.
    fn mtu(&self, _interface: &str) -> Result<u32> {
        Ok(1500)
    }
    /// Starts one that does not run.
    fn start_daemon(&mut self, daemon: &DaemonRow) -> Result<()>;
    /// Stops one that runs.
    fn stop_daemon(&mut self, role: Role) -> Result<()>;

    /// Mark rules, the first that matches first.
    fn marks(&self) -> Result<Vec<Rule>>;
    /// Changes them, or fails and changes nothing.
    fn change_marks(&mut self, change: &mut dyn FnMut(&mut Vec<Rule>) -> Result<()>) -> Result<()>;
    /// The sysctls.
    fn sysctls(&self) -> Result<Sysctls>;
    /// Changes them, or fails and changes nothing.
    fn change_sysctls(&mut self, change: &mut dyn FnMut(&mut Sysctls) -> Result<()>) -> Result<()>;

    /// The address as the kernel's routing sees it: this machine's own, or the broadcast address of a connected net?
    fn address_kind(&self, addr: &IpAddr) -> Result<AddressKind> {
        Ok(AddressKind::of(addr))
    }
    /// What the packet path cannot do yet: one line saying which feature it is. Asked after all rules have been
    /// checked, before anything is changed.
    fn unsupported(&self, _request: &Request) -> Option<String> {
        None
    }

    /// From here to [`Self::commit`], changes may be held back and written together. Reads see them at once.
    fn begin(&mut self) -> Result<()> {
        Ok(())
    }
    /// Writes what was held back.
    fn commit(&mut self) -> Result<()> {
        Ok(())
    }
}
