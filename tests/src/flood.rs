//! Floods from forged addresses, ten times what the connection table holds, beside honest connections: none of these may
//! be lost, new ones have to get in, and every count has to be right afterwards.
//!
//! The flood takes a table's worth of packets in ten seconds, in slices of one second. An honest client answers after a
//! tenth of a second; whoever is connected sends a packet every ten seconds.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lb_common::addr::{Family, Proto};
use lb_common::host::rules::{Memory as _, Rules};
use lb_common::ip::{V4, V6};
use lb_common::probe::{Probe, ProbeKey};
use lb_common::reason::Reason;
use lb_common::settings::Settings;
use lb_common::sip::Call;
use lb_common::sync::{self, Synced};
use lb_common::table::most_further;

use crate::bench::cases::{self, Case, Kind, Path};
use crate::bench::driver::{self, Driver, Plan, Target};
use crate::bpf::{self, Program, Sizes};
use crate::case::{self, Engine, Live, Nic};
use crate::host::Host;
use crate::packets::tcp::{ACK, SYN};

/// What the flood is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// SYNs.
    Syn,
    /// ACKs of no connection.
    Ack,
    /// The same, while `sloppy_tcp` lets any segment begin a connection.
    SloppyAck,
    /// Datagrams.
    Udp,
    /// Datagrams that the server answers, translated on their way back.
    AnsweredUdp,
}

impl Flood {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Syn, Self::Ack, Self::SloppyAck, Self::Udp, Self::AnsweredUdp];

    /// In a word or two.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::Ack => "ack",
            Self::SloppyAck => "ack, sloppy_tcp",
            Self::Udp => "udp",
            Self::AnsweredUdp => "udp, answered",
        }
    }
    const fn proto(self) -> Proto {
        match self {
            Self::Udp | Self::AnsweredUdp => Proto::UDP,
            _ => Proto::TCP,
        }
    }
    const fn path(self) -> Path {
        if matches!(self, Self::AnsweredUdp) { Path::NatReply } else { Path::Dr }
    }
    const fn flags(self) -> u8 {
        if matches!(self, Self::Syn) { SYN } else { ACK }
    }
    /// What becomes of its packets, but for those that find no room.
    const fn reason(self) -> Reason {
        if matches!(self, Self::Ack) { Reason::NoConnection } else { Reason::Forwarded }
    }
}

/// A flood, and who is connected.
#[derive(Debug, Clone, Copy)]
pub struct Scene {
    /// IP version.
    pub family: Family,
    /// What the flood is made of.
    pub flood: Flood,
    /// Slots of the family's table.
    pub slots: u32,
    /// Connections before the flood.
    pub established: u32,
    /// Connections made during each tenth of it.
    pub newcomers: u32,
}

/// What a flood came to. What has to hold has been checked.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Packets of the flood.
    pub packets: u64,
    /// Nanoseconds for one of them, the driver's share included.
    pub cost_ns: f64,
    /// Those of them that found no room.
    pub refused: u64,
    /// Connections at its end that are no part of it.
    pub honest: u32,
    /// Connections in the table at its end.
    pub live: usize,
}

/// What gives many packets to an engine.
pub trait Sender: Engine {
    /// Gives it packets of a plan, which goes on where they stop. Returns the nanoseconds it took.
    fn give(&mut self, plan: &mut Plan, packets: u32) -> Result<f64>;
    /// Packets per reason.
    fn reasons(&self) -> Result<Vec<u64>>;
    /// A second is over: the table has been swept meanwhile.
    fn second(&mut self) -> Result<()>;
    /// Has the table swept until it holds this many connections, or for some time.
    fn settle(&mut self, connections: usize) -> Result<()>;
}

impl Sender for Host {
    fn give(&mut self, plan: &mut Plan, packets: u32) -> Result<f64> {
        let start = Instant::now();
        for _ in 0..packets {
            self.run(Nic::Front, &plan.frame())?;
        }
        Ok(start.elapsed().as_nanos() as f64)
    }
    fn reasons(&self) -> Result<Vec<u64>> {
        Ok(Reason::ALL.iter().map(|reason| self.memory().reason(*reason)).collect())
    }
    fn second(&mut self) -> Result<()> {
        self.sweep()
    }
    fn settle(&mut self, _: usize) -> Result<()> {
        self.sweep()
    }
}

/// The loaded program and the driver program.
pub struct Driven<'a> {
    program: &'a mut Program,
    driver: Driver,
}

/// Packets in one system call.
const AT_ONCE: u32 = 1 << 16;

impl Sender for Driven<'_> {
    fn give(&mut self, plan: &mut Plan, packets: u32) -> Result<f64> {
        let mut took = 0.0;
        let mut left = packets;
        while left > 0 {
            let count = left.min(AT_ONCE);
            took += self.driver.run(Target::Lb, plan, count)?.cost * f64::from(count);
            left -= count;
        }
        Ok(took)
    }
    fn reasons(&self) -> Result<Vec<u64>> {
        self.program.maps().reasons()
    }
    /// The sweep is a timer of the kernel's, which knows nothing of how time passes here.
    fn second(&mut self) -> Result<()> {
        Ok(())
    }
    fn settle(&mut self, connections: usize) -> Result<()> {
        self.program.start_sweep()?;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(15) && self.live()?.len() != connections {
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}

impl Engine for Driven<'_> {
    type Memory = bpf::Maps;
    const NAME: &'static str = Program::NAME;

    fn memory(&self) -> &bpf::Maps {
        self.program.memory()
    }
    fn reset(&mut self) -> Result<()> {
        self.program.reset()
    }
    fn run(&mut self, nic: Nic, frame: &[u8]) -> Result<case::Outcome> {
        self.program.run(nic, frame)
    }
    fn send(&mut self, nic: Nic, frame: &[u8]) -> Result<Option<Vec<u8>>> {
        self.program.send(nic, frame)
    }
    fn adopt(&mut self, synced: &Synced, call: &Call) -> Result<sync::Outcome> {
        self.program.adopt(synced, call)
    }
    fn now(&self) -> Result<u32> {
        self.program.now()
    }
    fn pass_time(&mut self, seconds: u32) {
        self.program.pass_time(seconds);
    }
    fn set_marks(&mut self, rules: &[lb_common::mark::MarkRule]) -> Result<()> {
        self.program.set_marks(rules)
    }
    fn set_probe(&mut self, key: ProbeKey, probe: Probe) -> Result<()> {
        self.program.set_probe(key, probe)
    }
    fn sweep(&mut self) -> Result<()> {
        self.program.sweep()
    }
    fn counters(&self, dest: u32) -> Result<lb_common::tables::Counters> {
        self.program.counters(dest)
    }
    fn live(&self) -> Result<Vec<Live>> {
        self.program.live()
    }
}

impl Scene {
    /// On the host engine.
    pub fn on_host(&self) -> Result<Outcome> {
        let buckets = self.slots / ways(self.family);
        let sizes = lb_common::host::Sizes { buckets, second: self.second(), ..Default::default() };
        let mut host = Host::with_sizes(sizes);
        host.know_clients();
        self.play(&mut host)
    }

    /// On the loaded program, with the parts an attached one has.
    pub fn on_program(&self) -> Result<Outcome> {
        let buckets = self.slots / ways(self.family);
        let sizes = Sizes {
            buckets: match self.family {
                Family::V4 => [buckets, 64],
                Family::V6 => [64, buckets],
            },
            second: self.second(),
            ..Sizes::CASE
        };
        bpf::with_sizes(&sizes, |program| {
            driver::pin()?;
            cases::world(Nic::Front.name())?;
            let driver = Driver::new(Some(program.lb()?), program.card(Nic::Front), driver::thread_time)?;
            program.reset()?;
            program.maps().settings().secret.iter().zip(1..).for_each(|(cell, word)| cell.store(word));
            self.play(&mut Driven { program, driver })
        })
    }

    /// Second buckets, as many as the product has.
    fn second(&self) -> u32 {
        match self.family {
            Family::V4 => most_further::<V4>(self.slots / ways(self.family)),
            Family::V6 => most_further::<V6>(self.slots / ways(self.family)),
        }
    }

    fn case(&self) -> Case {
        let kind = Kind::Established(self.flood.path(), self.established);
        Case { family: self.family, proto: self.flood.proto(), kind }
    }

    fn play<S: Sender>(&self, sender: &mut S) -> Result<Outcome> {
        let case = self.case();
        let mut rules = Rules::new();
        let service = rules.add_service(sender.memory(), &case.service());
        rules.add_dests(sender.memory(), service, &case.dests());
        let play = Play { scene: *self, case, sender, honest: 0, sent: 0, refused: 0, took: 0.0 };
        play.whole().with_context(|| format!("{} {:?} {}", S::NAME, self.family, self.flood.name()))
    }
}

const fn ways(family: Family) -> u32 {
    match family {
        Family::V4 => 8,
        Family::V6 => 4,
    }
}

/// Tables' worth of packets.
const TENTHS: u32 = 10;
/// Seconds of each.
const SLICES: u32 = 10;
/// Clients that begin before the first of them goes on, while all is quiet.
const AT_A_TIME: u32 = 50;
/// How far the flood's addresses are from the honest ones.
const FURTHER: u32 = 1 << 20;

/// A flood going on.
struct Play<'a, S> {
    scene: Scene,
    case: Case,
    sender: &'a mut S,
    honest: u32,
    sent: u64,
    refused: u64,
    took: f64,
}

impl<S: Sender> Play<'_, S> {
    fn whole(mut self) -> Result<Outcome> {
        let scene = self.scene;
        for from in (0..scene.established).step_by(AT_A_TIME as usize) {
            self.join(AT_A_TIME.min(scene.established - from), 0, None)?;
        }
        let sloppy = u32::from(scene.flood == Flood::SloppyAck);
        self.settings().sloppy_tcp.store(sloppy);
        let mut flood = self.case.request(scene.flood.flags())?.from_everywhere(FURTHER);
        for tenth in 0..TENTHS {
            for slice in 0..SLICES {
                let newcomers = if slice == SLICES / 2 { scene.newcomers } else { 0 };
                self.join(newcomers, scene.slots / SLICES, Some(&mut flood))
                    .with_context(|| format!("in slice {slice} of tenth {tenth}"))?;
                self.sender.pass_time(1);
                self.sender.second()?;
            }
            self.go_on(0, self.honest).with_context(|| format!("after {} tables' worth", tenth + 1))?;
        }
        self.counts_are_right()?;
        let live = self.sender.live()?.len();
        self.nothing_is_left_of_it()?;
        let cost_ns = self.took / self.sent as f64;
        Ok(Outcome { packets: self.sent, cost_ns, refused: self.refused, honest: self.honest, live })
    }

    fn settings(&self) -> &Settings {
        self.sender.memory().settings()
    }

    /// Honest clients begin, the flood goes on for `packets`, they go on.
    fn join(&mut self, clients: u32, packets: u32, mut flood: Option<&mut Plan>) -> Result<()> {
        let rest = packets - packets / 10;
        self.part(rest / 2, flood.as_deref_mut())?;
        let from = self.honest;
        self.each(self.case.request(SYN)?, from, clients).context("clients that begin")?;
        if self.case.kind == Kind::Established(Path::NatReply, self.scene.established) {
            let answers = self.case.answer(ACK)?.starting(from);
            self.counted(answers, clients, Reason::Replied)?;
        }
        self.part(packets / 10, flood.as_deref_mut())?;
        self.go_on(from, clients).context("clients that go on")?;
        self.honest += clients;
        self.part(rest - rest / 2, flood)
    }

    /// A packet each of honest flows that are in the table: they go on, and do not begin anew.
    fn go_on(&mut self, from: u32, count: u32) -> Result<()> {
        let before = self.begun()?;
        self.each(self.case.request(ACK)?, from, count)?;
        let anew = self.begun()? - before;
        ensure!(anew == 0, "{anew} of {count} connections were lost");
        Ok(())
    }

    /// Connections that services have counted.
    fn begun(&self) -> Result<u64> {
        (0..self.case.dests().len() as u32).map(|dest| Ok(self.sender.counters(dest)?.conns)).sum()
    }

    /// A packet each of these honest flows. They all have to go to their servers.
    fn each(&mut self, plan: Plan, from: u32, count: u32) -> Result<()> {
        self.counted(plan.starting(from), count, Reason::Forwarded)
    }

    fn counted(&mut self, mut plan: Plan, count: u32, expected: Reason) -> Result<()> {
        let before = self.sender.reasons()?;
        self.sender.give(&mut plan, count)?;
        let after = self.sender.reasons()?;
        let moved = crate::bench::measure::moved(&before, &after);
        ensure!(
            after[expected as usize] - before[expected as usize] == u64::from(count),
            "of {count} packets that ought to be {expected:?}: {moved:?}"
        );
        Ok(())
    }

    /// Part of the flood.
    fn part(&mut self, packets: u32, flood: Option<&mut Plan>) -> Result<()> {
        let Some(plan) = flood else { return Ok(()) };
        let before = self.sender.reasons()?;
        if self.scene.flood == Flood::AnsweredUdp {
            // At once, so that no bucket has turned over before its server answers.
            let mut answers = self.case.answer(ACK)?.from_everywhere(FURTHER);
            answers.cursor = plan.cursor;
            self.took += self.sender.give(plan, packets)?;
            self.sender.give(&mut answers, packets)?;
        } else {
            self.took += self.sender.give(plan, packets)?;
        }
        let after = self.sender.reasons()?;
        let of = |reason: Reason| after[reason as usize] - before[reason as usize];
        let (gone, refused) = (of(self.scene.flood.reason()), of(Reason::TableFull));
        ensure!(
            gone + refused == u64::from(packets),
            "of {packets} packets {gone}, and {refused} found no room"
        );
        self.sent += u64::from(packets);
        self.refused += refused;
        Ok(())
    }

    /// What dests and service count is what is in the table, and what was sent.
    fn counts_are_right(&self) -> Result<()> {
        let live = self.sender.live()?;
        let begun = match self.scene.flood {
            Flood::Ack => 0,
            _ => self.sent - self.refused,
        };
        let (mut conns, mut packets) = (0, 0);
        for number in 0..self.case.dests().len() as u32 {
            let dest = self.sender.memory().dest(number).context("a dest")?;
            let of = |active: bool| live.iter().filter(|e| e.dest == number && e.active == active).count();
            let counted = (dest.active.load() as usize, (dest.total.load() - dest.active.load()) as usize);
            ensure!(
                counted == (of(true), of(false)),
                "dest {number} counts {counted:?} active and inactive, of {:?}",
                (of(true), of(false))
            );
            let counters = self.sender.counters(number)?;
            (conns, packets) = (conns + counters.conns, packets + counters.inpkts);
        }
        let active = live.iter().filter(|entry| entry.active).count();
        let expected = match self.scene.flood {
            Flood::Ack => self.honest as usize,
            // IPVS counts what a SYN or a stray segment begins as active at once.
            Flood::Syn | Flood::SloppyAck => live.len(),
            Flood::Udp | Flood::AnsweredUdp => 0,
        };
        ensure!(active == expected, "{active} active connections of {expected}");
        ensure!(
            conns == begun + u64::from(self.honest),
            "{conns} connections are counted, {} were begun",
            begun + u64::from(self.honest)
        );
        ensure!(packets >= conns + u64::from(self.honest), "{packets} packets are counted");
        Ok(())
    }

    fn sloppy(&self) -> bool {
        self.scene.flood == Flood::SloppyAck
    }

    /// Who goes on sending stays; the rest's time runs out.
    fn nothing_is_left_of_it(&mut self) -> Result<()> {
        let rounds = if self.sloppy() { 5 } else { 2 };
        for _ in 0..rounds {
            self.sender.pass_time(200);
            self.go_on(0, self.honest).context("long after it")?;
        }
        self.sender.settle(self.honest as usize)?;
        let live = self.sender.live()?;
        ensure!(live.len() == self.honest as usize, "{} connections are left of {}", live.len(), self.honest);
        let total: u32 = (0..self.case.dests().len() as u32)
            .filter_map(|n| Some(self.sender.memory().dest(n)?.total.load()))
            .sum();
        ensure!(total == self.honest, "dests count {total} connections of {}", self.honest);
        Ok(())
    }
}

/// What a table of so many connections has to bear, with the real size.
pub fn real(family: Family, flood: Flood, connections: u32) -> Scene {
    Scene { family, flood, slots: connections.next_power_of_two() * 2, established: 20_000, newcomers: 500 }
}
