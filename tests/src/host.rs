//! The host engine in the cases' world.

use anyhow::{Context as _, Result, ensure};
use lb_common::addr::{Addr, Family};
use lb_common::conn::{Entry, Ways, bound, ctl, tag};
use lb_common::dest::{Hop, Route};
use lb_common::host::{self, HostTables, Sizes, SliceFrame};
use lb_common::ip::{Address, Ip, V4, V6};
use lb_common::mark::MarkRule;
use lb_common::probe::{Probe, ProbeKey};
use lb_common::reason::{Action, Reason};
use lb_common::sip::Call;
use lb_common::sync::{self, Synced};
use lb_common::tables::Counters;

use crate::case::{
    Engine, HOSTS, Live, MTU, NARROW_MTU, Nic, Outcome, ROUTER, Way, client, end, narrow_client,
};

/// The pass over ordinary memory.
pub struct Host {
    sizes: Sizes,
    tables: HostTables,
}

impl Host {
    /// With empty tables.
    pub fn new() -> Self {
        Self::with_sizes(Sizes::default())
    }

    /// With empty tables of other sizes.
    pub fn with_sizes(sizes: Sizes) -> Self {
        Self { sizes, tables: world(&sizes) }
    }

    /// The router leads to the benchmarks' clients too, as [`crate::bench::cases::world`] has it.
    pub fn know_clients(&self) {
        let clients = Addr::v4([100, 64, 0, 0]);
        self.tables.set_route(Family::V4, clients, 10, Ok(route(Family::V4, Nic::Front, ROUTER)));
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

/// Tables that know the way to all of the world's hosts.
pub fn world(sizes: &Sizes) -> HostTables {
    let tables = HostTables::new(sizes);
    for (family, on_link, whole) in [(Family::V4, 16, 32), (Family::V6, 64, 128)] {
        for nic in Nic::ALL {
            let segment = Addr::from(nic.host(family, 0));
            tables.set_route(family, segment, on_link, Err(Reason::NoNeighbour));
            // The balancer itself.
            let own = Addr::from(nic.host(family, 1));
            tables.set_route(family, own, whole, Err(Reason::NoRoute));
            for host in HOSTS {
                let to = Addr::from(nic.host(family, host));
                tables.set_route(family, to, whole, Ok(route(family, nic, host)));
            }
        }
    }
    let router = |family| Ok(route(family, Nic::Front, ROUTER));
    tables.set_route(Family::V4, Addr::from(client(Family::V4, 0)), 24, router(Family::V4));
    tables.set_route(Family::V6, Addr::from(client(Family::V6, 0)), 64, router(Family::V6));
    for (family, prefix) in [(Family::V4, 24), (Family::V6, 64)] {
        let mut way = route(family, Nic::Front, ROUTER);
        way.hop.mtu = NARROW_MTU;
        tables.set_route(family, Addr::from(narrow_client(family, 0)), prefix, Ok(way));
    }
    tables
}

fn route(family: Family, nic: Nic, host: u8) -> Route {
    let macs = Hop::pack(nic.host_mac(host), nic.mac());
    let hop = Hop { macs, ifindex: number(nic), mtu: MTU, vlan: 0 };
    Route { hop, source: Addr::from(nic.host(family, 1)) }
}

/// A card's number here.
pub fn number(nic: Nic) -> u32 {
    u32::from(nic.net())
}

impl Engine for Host {
    type Memory = HostTables;
    const NAME: &'static str = "host engine";

    fn memory(&self) -> &HostTables {
        &self.tables
    }

    fn reset(&mut self) -> Result<()> {
        *self = Self::with_sizes(self.sizes);
        Ok(())
    }

    fn run(&mut self, nic: Nic, frame: &[u8]) -> Result<Outcome> {
        let mut frame = SliceFrame::new(frame, number(nic));
        let verdict = host::run(&self.tables, &mut frame);
        let way = match verdict.action() {
            Action::Pass => Way::Pass,
            Action::Drop => Way::Drop,
            Action::Transmit => Way::Transmit,
            Action::Redirect(_) => Way::Redirect,
        };
        let reason = verdict.reason().context("a verdict without a reason")?;
        Ok(Outcome { way, reason, frame: frame.bytes().to_vec() })
    }

    fn send(&mut self, nic: Nic, frame: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut sent = SliceFrame::new(frame, number(nic));
        let verdict = host::send(&self.tables, &mut sent);
        ensure!(verdict.action() != Action::Drop, "dropped: {verdict:?}");
        let changed = matches!(verdict.reason(), Some(Reason::Replied | Reason::ProbeSent));
        Ok(changed.then(|| sent.bytes().to_vec()))
    }

    fn now(&self) -> Result<u32> {
        Ok(lb_common::tables::Tables::now(&self.tables))
    }

    fn pass_time(&mut self, seconds: u32) {
        self.tables.pass_time(seconds);
    }

    fn set_marks(&mut self, rules: &[MarkRule]) -> Result<()> {
        self.tables.set_marks(rules);
        Ok(())
    }

    fn set_probe(&mut self, key: ProbeKey, probe: Probe) -> Result<()> {
        self.tables.set_probe(key, probe);
        Ok(())
    }

    fn sweep(&mut self) -> Result<()> {
        host::sweep(&self.tables);
        Ok(())
    }

    fn adopt(&mut self, synced: &Synced, call: &Call) -> Result<sync::Outcome> {
        Ok(if synced.family == Family::V4 as u8 {
            sync::adopt::<V4, _>(&self.tables, synced, call)
        } else {
            sync::adopt::<V6, _>(&self.tables, synced, call)
        })
    }

    fn counters(&self, dest: u32) -> Result<Counters> {
        Ok(self.tables.counters(dest))
    }

    fn live(&self) -> Result<Vec<Live>> {
        Ok(live_of(&self.tables))
    }
}

/// Everything live in the tables.
pub fn live_of(tables: &HostTables) -> Vec<Live> {
    let v4 = tables.buckets4().flat_map(live_in::<V4>);
    v4.chain(tables.buckets6().flat_map(live_in::<V6>)).collect()
}

/// Everything live in a bucket.
pub fn live_in<F: Ip>(bucket: &F::Bucket) -> Vec<Live> {
    (0..F::Entry::WAYS).filter_map(|way| live::<F>(bucket.way(way))).collect()
}

fn live<F: Ip>(entry: &F::Entry) -> Option<Live> {
    let word = entry.life().ctl.load();
    let flow = entry.flow();
    ctl::is_live(word).then(|| Live {
        client: end(F::FAMILY, flow.client.wide(), flow.cport),
        virtual_end: end(F::FAMILY, flow.vaddr.wide(), flow.vport),
        proto: flow.proto.0,
        dest: entry.life().dest.load() & bound::DEST,
        state: (word & ctl::STATE) as u8,
        active: word & ctl::ACTIVE != 0,
        template: entry.tag().load() & tag::TEMPLATE != 0,
    })
}
