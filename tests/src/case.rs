//! Packet cases: rules, then steps, each with what has to come of it. A case knows nothing of what runs it: the same one
//! goes through the host engine ([`crate::host`]) and through the loaded program ([`crate::bpf`]).
//!
//! All cases live in one small world. The balancer has two cards. Behind the front one are clients, a router to more of
//! them, and servers of a one-armed balancer; behind the back one are servers on a segment of their own. The neighbours'
//! MAC addresses are fixed, so that what leaves is known to the byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, bail, ensure};
use lb_common::addr::{Addr, Family, Port, Proto, family_of};
use lb_common::dest::{Method, TunType, status};
use lb_common::host::Sizes;
use lb_common::host::rules::{Memory, NewDest, NewService, Rules, know_all};
use lb_common::mark::MarkRule;
use lb_common::probe::{self, Probe, ProbeKey};
use lb_common::reason::Reason;
use lb_common::sched::Scheduler;
use lb_common::sip::Call;
use lb_common::sync::{self, Synced};
use lb_common::tables::Counters;

use crate::packets::{Frame, Mac, Packet};

/// A card of the balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nic {
    /// Towards clients.
    Front,
    /// Towards servers.
    Back,
}

/// The cards' MTU.
pub const MTU: u32 = 1500;
/// What the way to a [`narrow_client`] carries.
pub const NARROW_MTU: u32 = 1400;

impl Nic {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Front, Self::Back];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Front => "front",
            Self::Back => "back",
        }
    }
    /// Its MAC address.
    pub const fn mac(self) -> Mac {
        [2, 0, 0, 0, 0, self.net()]
    }
    /// The number of its networks: 10.NET.0.0/16, fd0NET::/64.
    pub const fn net(self) -> u8 {
        match self {
            Self::Front => 1,
            Self::Back => 2,
        }
    }
    /// A host on its segment: 10.NET.0.HOST or fd0NET::HOST. Host 1 is the balancer.
    pub fn host(self, family: Family, host: u8) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(10, self.net(), 0, host).into(),
            Family::V6 => Ipv6Addr::new(0xfd00 | u16::from(self.net()), 0, 0, 0, 0, 0, 0, host.into()).into(),
        }
    }
    /// That host's MAC address.
    pub const fn host_mac(self, host: u8) -> Mac {
        [2, 0, 0, 0, self.net(), host]
    }
}

/// Hosts with a neighbour entry on both segments. The last is the router on the front one.
pub const HOSTS: [u8; 8] = [11, 12, 13, 21, 22, 23, 100, ROUTER];
/// The router's host number.
pub const ROUTER: u8 = 254;

/// The virtual address.
pub fn vip(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 9, 0, 1).into(),
        Family::V6 => Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1).into(),
    }
}

/// A client behind the router: 192.0.2.N, 2001:db8::N.
pub fn client(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, number).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()).into(),
    }
}

/// A client behind the router, the way to which carries only [`NARROW_MTU`] bytes: 198.18.0.N, 2001:db8:1::N.
pub fn narrow_client(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(198, 18, 0, number).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, number.into()).into(),
    }
}

/// A frame from a client, by way of the router.
pub fn from_client(packet: Packet) -> Frame {
    Frame::new(Nic::Front.host_mac(ROUTER), Nic::Front.mac(), packet)
}

/// A frame to a client, by way of the router.
pub fn to_client(packet: Packet) -> Frame {
    Frame::new(Nic::Front.mac(), Nic::Front.host_mac(ROUTER), packet)
}

/// A frame to a host of a segment.
pub fn to_host(nic: Nic, host: u8, packet: Packet) -> Frame {
    Frame::new(nic.mac(), nic.host_mac(host), packet)
}

/// A frame from a host of a segment.
pub fn from_host(nic: Nic, host: u8, packet: Packet) -> Frame {
    Frame::new(nic.host_mac(host), nic.mac(), packet)
}

/// A service on the virtual address.
pub fn service(family: Family, proto: Proto, port: u16, scheduler: Scheduler) -> NewService {
    NewService::new(family, proto, Addr::from(vip(family)), port, scheduler)
}

/// A service by mark.
pub fn by_mark(family: Family, mark: u32, scheduler: Scheduler) -> NewService {
    NewService::mark(family, mark, scheduler)
}

/// A dest on a segment.
pub fn dest(nic: Nic, family: Family, host: u8, port: u16, method: Method) -> NewDest {
    NewDest::new(family, Addr::from(nic.host(family, host)), port, method)
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the balancer's own stack.
    Pass,
    /// Nowhere.
    Drop,
    /// Out by the card it came in by.
    Transmit,
    /// Out by the other card.
    Redirect,
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The way it went.
    pub way: Way,
    /// The one reason that was counted.
    pub reason: Reason,
    /// The frame as it left the program.
    pub frame: Vec<u8>,
}

/// A connection or template in the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Live {
    /// The client and its port; 0 for a template.
    pub client: (IpAddr, u16),
    /// The virtual address and port.
    pub virtual_end: (IpAddr, u16),
    /// The protocol's number.
    pub proto: u8,
    /// The dest's number.
    pub dest: u32,
    /// Its state.
    pub state: u8,
    /// Counted as active?
    pub active: bool,
    /// A template?
    pub template: bool,
}

/// What runs packets.
pub trait Engine {
    /// Its tables' words.
    type Memory: Memory;
    /// For messages.
    const NAME: &'static str;

    /// Its tables' words.
    fn memory(&self) -> &Self::Memory;
    /// Empties all tables.
    fn reset(&mut self) -> Result<()>;
    /// Runs a frame that came in by a card.
    fn run(&mut self, nic: Nic, frame: &[u8]) -> Result<Outcome>;
    /// Sends a frame of the balancer's own stack by a card: the frame as it leaves, if it is not as it was.
    fn send(&mut self, nic: Nic, frame: &[u8]) -> Result<Option<Vec<u8>>>;
    /// The packet path's clock.
    fn now(&self) -> Result<u32>;
    /// Lets time pass.
    fn pass_time(&mut self, seconds: u32);
    /// Puts mark rules in force.
    fn set_marks(&mut self, rules: &[MarkRule]) -> Result<()>;
    /// Notes a check's socket.
    fn set_probe(&mut self, key: ProbeKey, probe: Probe) -> Result<()>;
    /// Has the whole table swept.
    fn sweep(&mut self) -> Result<()>;
    /// Takes in a connection of another director, and the call it is for.
    fn adopt(&mut self, synced: &Synced, call: &Call) -> Result<sync::Outcome>;
    /// A dest's counters.
    fn counters(&self, dest: u32) -> Result<Counters>;
    /// Everything in the connection table.
    fn live(&self) -> Result<Vec<Live>>;
}

/// One thing that happens.
#[derive(Debug, Clone)]
pub enum Step {
    /// A packet comes in by a card.
    Send(Nic, Vec<u8>, Expect),
    /// The balancer's own stack sends a packet by a card. It leaves as this frame, or as it is.
    Own(Nic, Vec<u8>, Option<Box<Frame>>),
    /// A dest is on the balancer itself.
    Local(u32),
    /// The counts of a dest: active, inactive.
    Counts(u32, u32, u32),
    /// The templates of a dest.
    Templates(u32, u32),
    /// Packets in and out, and connections, of a dest.
    Traffic(u32, [u64; 3]),
    /// Entries in the table: connections, templates.
    Entries(usize, usize),
    /// The state of the only connection.
    State(u8),
    /// A dest's weight is changed.
    Weight(u32, u32),
    /// A dest is deleted.
    Delete(u32),
    /// A dest is found dead: these bits of its status are set.
    Dead(u32, u32),
    /// A dest is added to a service: it gets this number.
    Add(u32, NewDest, u32),
    /// These mark rules are in force from now on.
    Marks(Vec<MarkRule>),
    /// Everything in the table, in any order.
    Table(Vec<Live>),
    /// A setting is changed.
    Set(fn(&lb_common::settings::Settings)),
    /// Clients' packets are left to another balancer for so many seconds.
    StandBy(u32),
    /// A check's socket is noted.
    Check(Box<Check>),
    /// Seconds pass.
    Wait(u32),
    /// The table is swept.
    Sweep,
    /// Another director tells of a connection, or of a template and the call it is for; this becomes of it.
    Adopt(Box<(Synced, Call)>, sync::Outcome),
}

/// A socket of the balancer's own, by which a server is checked as a client would find it.
#[derive(Debug, Clone)]
pub struct Check {
    /// Its own end.
    pub from: (IpAddr, u16),
    /// Its protocol.
    pub proto: Proto,
    /// What it is connected to.
    pub server: IpAddr,
    /// The virtual address.
    pub vip: IpAddr,
    /// The tunnel to the server: type, flags, port.
    pub tunnel: Option<(TunType, u8, Port)>,
}

impl Check {
    fn key(&self) -> ProbeKey {
        let (addr, port) = self.from;
        ProbeKey::new(family(addr), Addr::from(addr), Port::new(port), self.proto)
    }

    fn probe(&self) -> Probe {
        let tunnel = self.tunnel.map_or(0, |(kind, flags, port)| {
            let [a, b] = port.wire().to_ne_bytes();
            u32::from_ne_bytes([kind as u8, flags, a, b])
        });
        Probe {
            server: Addr::from(self.server),
            vip: Addr::from(self.vip),
            source: Addr::from(self.from.0),
            tunnelled: u32::from(self.tunnel.is_some()),
            tunnel,
            ..Probe::default()
        }
    }
}

/// What has to come of a packet.
#[derive(Debug, Clone)]
pub enum Expect {
    /// It leaves by a way as this frame.
    Leaves(Way, Reason, Box<Frame>),
    /// It is passed, untouched.
    Passes(Reason),
    /// It is dropped.
    Drops(Reason),
}

/// Rules and what happens under them.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// Services with their dests, added in this order.
    pub rules: Vec<(NewService, Vec<NewDest>)>,
    /// What happens.
    pub steps: Vec<Step>,
}

impl Case {
    /// With one service.
    pub fn new(name: impl Into<String>, service: NewService, dests: &[NewDest]) -> Self {
        Self { name: name.into(), rules: vec![(service, dests.to_vec())], steps: Vec::new() }
    }

    /// With one more service.
    pub fn and(mut self, service: NewService, dests: &[NewDest]) -> Self {
        self.rules.push((service, dests.to_vec()));
        self
    }

    /// With one more step.
    pub fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// A frame comes in by `nic` and leaves by the other card or the same one, as `expected`.
    pub fn forwards(self, nic: Nic, way: Way, frame: &Frame, expected: Frame) -> Self {
        let expect = Expect::Leaves(way, Reason::Forwarded, Box::new(expected));
        self.step(Step::Send(nic, frame.bytes(), expect))
    }

    /// A server's answer comes in by `nic` and leaves to the client, as `expected`.
    pub fn replies(self, nic: Nic, way: Way, frame: &Frame, expected: Frame) -> Self {
        let expect = Expect::Leaves(way, Reason::Replied, Box::new(expected));
        self.step(Step::Send(nic, frame.bytes(), expect))
    }

    /// A client's frame is answered with an ICMP error.
    pub fn answers(self, frame: &Frame, expected: Frame) -> Self {
        let expect = Expect::Leaves(Way::Transmit, Reason::IcmpSent, Box::new(expected));
        self.step(Step::Send(Nic::Front, frame.bytes(), expect))
    }

    /// A client's frame is answered with a reset.
    pub fn resets(self, frame: &Frame, expected: Frame) -> Self {
        let expect = Expect::Leaves(Way::Transmit, Reason::ResetSent, Box::new(expected));
        self.step(Step::Send(Nic::Front, frame.bytes(), expect))
    }

    /// A client's frame is passed.
    pub fn passes(self, frame: &Frame, reason: Reason) -> Self {
        self.step(Step::Send(Nic::Front, frame.bytes(), Expect::Passes(reason)))
    }

    /// A client's frame is dropped.
    pub fn drops(self, frame: &Frame, reason: Reason) -> Self {
        self.step(Step::Send(Nic::Front, frame.bytes(), Expect::Drops(reason)))
    }

    /// Runs it on an emptied engine.
    pub fn run<E: Engine>(&self, engine: &mut E) -> Result<()> {
        engine.reset()?;
        let mut rules = Rules::new();
        set_up(&mut rules, engine.memory(), &self.rules);
        for (number, step) in self.steps.iter().enumerate() {
            take(engine, &mut rules, step).with_context(|| {
                format!("{}, case `{}`, step {}: {}", E::NAME, self.name, number + 1, short(step))
            })?;
        }
        Ok(())
    }
}

/// Adds services and dests.
pub fn set_up<M: Memory>(rules: &mut Rules, memory: &M, wanted: &[(NewService, Vec<NewDest>)]) {
    for (service, dests) in wanted {
        let number = rules.add_service(memory, service);
        dests.iter().for_each(|dest| {
            rules.add_dest(memory, number, dest);
        });
    }
}

fn take<E: Engine>(engine: &mut E, rules: &mut Rules, step: &Step) -> Result<()> {
    match step {
        Step::Send(nic, frame, expect) => expect.check(frame, &engine.run(*nic, frame)?),
        Step::Own(nic, frame, expected) => match (engine.send(*nic, frame)?, expected) {
            (Some(got), Some(expected)) => same_bytes(&got, &expected.fitted(&got)),
            (None, None) => Ok(()),
            (Some(got), None) => bail!("it leaves as {}", hex(&got)),
            (None, Some(_)) => bail!("it leaves as it is"),
        },
        Step::Counts(dest, active, inactive) => {
            let slot = engine.memory().dest(*dest).context("no such dest")?;
            let (is_active, total) = (slot.active.load(), slot.total.load());
            same("active and inactive connections", (is_active, total - is_active), (*active, *inactive))
        }
        Step::Templates(dest, count) => {
            let slot = engine.memory().dest(*dest).context("no such dest")?;
            same("templates", slot.templates.load(), *count)
        }
        Step::Traffic(dest, wanted) => {
            let c = engine.counters(*dest)?;
            same("packets in, out, and connections", [c.inpkts, c.outpkts, c.conns], *wanted)
        }
        Step::Entries(conns, templates) => {
            let live = engine.live()?;
            let held = live.iter().filter(|entry| entry.template).count();
            same("connections and templates", (live.len() - held, held), (*conns, *templates))
        }
        Step::State(state) => {
            let live = engine.live()?;
            let states: Vec<u8> =
                live.iter().filter(|entry| !entry.template).map(|entry| entry.state).collect();
            same("states", states, vec![*state])
        }
        Step::Table(wanted) => {
            let (mut live, mut wanted) = (engine.live()?, wanted.clone());
            live.sort();
            wanted.sort();
            same("the table", live, wanted)
        }
        Step::Adopt(told, outcome) => same("what becomes of it", engine.adopt(&told.0, &told.1)?, *outcome),
        _ => change(engine, rules, step),
    }
}

fn change<E: Engine>(engine: &mut E, rules: &mut Rules, step: &Step) -> Result<()> {
    match step {
        Step::Weight(dest, weight) => rules.set_weight(engine.memory(), *dest, *weight),
        Step::Local(dest) => {
            let slot = engine.memory().dest(*dest).context("no such dest")?;
            slot.status.store(slot.status.load() | status::LOCAL);
            engine.memory().settings().local_dests.store(1);
        }
        Step::Dead(dest, fate) => {
            let slot = engine.memory().dest(*dest).context("no such dest")?;
            slot.status.store(slot.status.load() | fate);
        }
        Step::Delete(dest) => rules.delete_dest(engine.memory(), *dest),
        Step::Add(service, new, number) => {
            same("dest number", rules.add_dest(engine.memory(), *service, new), *number)?;
        }
        Step::Set(set) => set(engine.memory().settings()),
        Step::StandBy(seconds) => {
            let settings = engine.memory().settings();
            settings.standby_until.hold(engine.now()?, settings.ticks(*seconds));
        }
        Step::Marks(marks) => {
            know_all(engine.memory());
            engine.set_marks(marks)?;
        }
        Step::Check(check) => {
            let key = check.key();
            engine.set_probe(key, check.probe())?;
            let probers = &engine.memory().settings().probers;
            probers.store(probers.load() | probe::bit(family(check.from.0), &key.addr));
        }
        Step::Wait(seconds) => engine.pass_time(*seconds),
        Step::Sweep => engine.sweep()?,
        _ => {}
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: T, wanted: T) -> Result<()> {
    ensure!(is == wanted, "{what}: {is:?} instead of {wanted:?}");
    Ok(())
}

impl Expect {
    fn check(&self, sent: &[u8], got: &Outcome) -> Result<()> {
        let (way, reason) = match self {
            Self::Leaves(way, reason, _) => (*way, *reason),
            Self::Passes(reason) => (Way::Pass, *reason),
            Self::Drops(reason) => (Way::Drop, *reason),
        };
        same("verdict", (got.way, got.reason), (way, reason))?;
        match self {
            Self::Leaves(_, _, frame) => same_bytes(&got.frame, &frame.fitted(&got.frame)),
            Self::Passes(_) => same_bytes(&got.frame, sent),
            Self::Drops(_) => Ok(()),
        }
    }
}

fn same_bytes(is: &[u8], wanted: &[u8]) -> Result<()> {
    let first = is.iter().zip(wanted).position(|(a, b)| a != b).unwrap_or(is.len().min(wanted.len()));
    ensure!(
        is == wanted,
        "the frame differs from byte {first} on:\n   is {}\n  not {}",
        hex(is),
        hex(wanted)
    );
    Ok(())
}

/// Bytes as people compare them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn short(step: &Step) -> String {
    match step {
        Step::Send(nic, frame, _) => format!("{} bytes come in by {}", frame.len(), nic.name()),
        Step::Own(nic, frame, _) => format!("the stack sends {} bytes by {}", frame.len(), nic.name()),
        other => format!("{other:?}"),
    }
}

/// An address of the tables in a message's words.
pub fn end(family: Family, addr: Addr, port: Port) -> (IpAddr, u16) {
    (addr.to_ip(family), port.host())
}

/// The family of an address.
pub fn family(address: IpAddr) -> Family {
    family_of(&address)
}

/// Both families.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// All of a list of cases, on the host engine and then on the loaded program.
pub fn run_all(cases: &[Case]) -> Result<()> {
    let mut host = crate::host::Host::new();
    for case in cases {
        case.run(&mut host)?;
    }
    crate::bpf::with(|program| cases.iter().try_for_each(|case| case.run(program)))
}

/// The same with the smallest connection table there is: one bucket of each family, and so many `further` ones.
pub fn run_all_tiny(further: u32, cases: &[Case]) -> Result<()> {
    let mut host = crate::host::Host::with_sizes(Sizes { buckets: 1, second: further, ..Sizes::default() });
    for case in cases {
        case.run(&mut host)?;
    }
    let sizes = crate::bpf::Sizes { buckets: [1; 2], second: further, ..crate::bpf::Sizes::CASE };
    crate::bpf::with_sizes(&sizes, |program| cases.iter().try_for_each(|case| case.run(program)))
}
