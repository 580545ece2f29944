//! A packet without a connection: which service is it for, may it start a connection, which dest gets it?

use crate::addr::{Port, Proto};
use crate::conn::{bound, ctl};
use crate::dest::{Dest, Method};
use crate::ip::{Address, Ip};
use crate::parse::Seen;
use crate::persist;
use crate::reason::{Reason, Verdict};
use crate::sched::{self, Ask, Candidate, View};
use crate::service::{SchedState, Service, ServiceKey, flags};
use crate::state;
use crate::table::{self, Birth, Inserted, Place};
use crate::tables::Tables;
use core::ops::ControlFlow;

/// A packet that may start a connection.
#[derive(Debug)]
pub struct Newcomer<'a, F: Ip> {
    /// The packet.
    pub seen: &'a Seen<F>,
    /// Where its entry will live.
    pub place: Place,
}

/// A service found, with the port of the key it was found by.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The service.
    pub service: &'a Service,
    /// Its own port: 0 for one that takes all ports.
    pub port: Port,
}

/// The service a packet is for, in IPVS's order: exact, the FTP rule, port 0.
#[inline(always)]
pub fn service<'a, F: Ip, T: Tables>(t: &'a T, seen: &Seen<F>) -> Option<Found<'a>> {
    const FTP: Port = Port::new(21);
    const FTP_DATA: u16 = 20;
    let settings = t.settings();
    let mut key = ServiceKey::addr(F::FAMILY, seen.proto, seen.dst.wide(), seen.dport);
    if let Some(service) = t.service(&key) {
        return Some(Found { service, port: key.port });
    }
    let port = seen.dport.host();
    if seen.proto == Proto::TCP && settings.ftp.load() != 0 && (port == FTP_DATA || port >= 1024) {
        key.port = FTP;
        if let Some(service) = t.service(&key) {
            return Some(Found { service, port: key.port });
        }
    }
    if settings.port0.load() == 0 {
        return None;
    }
    key.port = Port::ZERO;
    t.service(&key).map(|service| Found { service, port: key.port })
}

/// A slot, or the reason there is none: one word, because that is what a BPF function can return.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct Admitted(u64);

impl From<Result<u32, Reason>> for Admitted {
    #[inline(always)]
    fn from(result: Result<u32, Reason>) -> Self {
        match result {
            Ok(slot) => Self(slot as u64 | 1 << 32),
            Err(reason) => Self(reason as u64),
        }
    }
}

impl Admitted {
    /// The slot.
    #[inline(always)]
    pub const fn slot(self) -> Option<u32> {
        if self.0 >> 32 != 0 { Some(self.0 as u32) } else { None }
    }
    /// Is it this reason?
    #[inline(always)]
    pub const fn is(self, reason: Reason) -> bool {
        self.0 == reason as u64
    }
    /// The verdict of a packet not admitted.
    #[inline(always)]
    pub const fn verdict(self) -> Verdict {
        Verdict::numbered(self.0 as u32)
    }
}

/// Makes the connection of a newcomer.
#[inline(never)]
pub fn admit<F: Ip, T: Tables>(t: &T, new: &Newcomer<'_, F>) -> Admitted {
    schedule(t, new).into()
}

#[inline(always)]
fn schedule<F: Ip, T: Tables>(t: &T, new: &Newcomer<'_, F>) -> Result<u32, Reason> {
    let seen = new.seen;
    let found = service::<F, T>(t, seen).ok_or(Reason::NoService)?;
    // Source port 20 is a server's FTP data connection to a client; IPVS never balances it.
    if !seen.opens || seen.proto == Proto::TCP && seen.sport == Port::new(20) {
        return Err(Reason::NoConnection);
    }
    if found.service.flags & flags::PERSISTENT != 0 {
        return persist::admit(t, new, &found);
    }
    // A non-persistent service serves its own port only; a packet to another one came by the FTP rule.
    if found.port != seen.dport {
        return Err(Reason::NoConnection);
    }
    let dest = choose(t, found.service, seen).ok_or(Reason::NoDest)?;
    open(t, new, dest, false).map(Inserted::slot)
}

/// Asks the scheduler.
#[inline(always)]
pub fn choose<F: Ip, T: Tables>(t: &T, service: &Service, seen: &Seen<F>) -> Option<u32> {
    let ask = Ask {
        source: u32::from_be(seen.src.mixed()),
        destination: u32::from_be(seen.dst.mixed()),
        source_port: seen.sport.host() as u32,
    };
    sched::pick(&ServiceView { tables: t, service, state: t.sched(service.slot)? }, &ask)
}

/// Makes the entry of a connection to `number`. `keep_port`: the dest is addressed on the packet's own port.
#[inline(always)]
pub fn open<F: Ip, T: Tables>(
    t: &T,
    new: &Newcomer<'_, F>,
    number: u32,
    keep_port: bool,
) -> Result<Inserted, Reason> {
    let dest = t.dest(number).ok_or(Reason::Internal)?;
    let birth = birth(t, new.seen, number, dest, keep_port || dest.port().is_zero());
    let inserted = table::insert::<F, T>(t, new.place, &new.seen.flow(), &birth, new.seen.now)?;
    if matches!(inserted, Inserted::New(_)) {
        t.count_conn(number);
    }
    Ok(inserted)
}

#[inline(always)]
fn birth<F: Ip, T: Tables>(t: &T, seen: &Seen<F>, number: u32, dest: &Dest, keep_port: bool) -> Birth {
    let method = dest.method() as u32;
    let nat = method == Method::Nat as u32;
    let direction = if nat { state::Direction::Input } else { state::Direction::InputOnly };
    let secure = t.settings().secure_tcp.load() != 0;
    let state = state::first(seen.proto, secure, direction, seen.event);
    let active = if state::active(seen.proto, state) { ctl::ACTIVE } else { 0 };
    Birth {
        dest: number | method << bound::METHOD_SHIFT | if keep_port { bound::KEEP_PORT } else { 0 },
        tag: 0,
        ctl: state as u32 | active | if nat { 0 } else { ctl::NO_OUTPUT },
        last: seen.now,
        packets: 0,
    }
}

/// A service as schedulers see it.
struct ServiceView<'a, T: Tables> {
    tables: &'a T,
    service: &'a Service,
    state: &'a SchedState,
}

impl<T: Tables> View for ServiceView<'_, T> {
    #[inline(always)]
    fn service(&self) -> &Service {
        self.service
    }
    #[inline(always)]
    fn state(&self) -> &SchedState {
        self.state
    }
    #[inline(always)]
    fn candidate(&self, at: u32) -> Option<Candidate> {
        self.dest(self.tables.list(self.service.list.wrapping_add(at))?)
    }
    #[inline(always)]
    fn table(&self, at: u32) -> Option<u32> {
        self.tables.list(self.service.table.wrapping_add(at))
    }
    #[inline(always)]
    fn dest(&self, number: u32) -> Option<Candidate> {
        let dest = self.tables.dest(number)?;
        Some(Candidate {
            dest: number,
            weight: dest.weight.load(),
            active: dest.active.load(),
            total: dest.total.load(),
            overloaded: dest.overloaded.load() != 0,
            available: dest.available(),
        })
    }
    #[inline(always)]
    fn random(&self) -> u32 {
        self.tables.random()
    }
    #[inline(always)]
    fn walk<A>(&self, count: u32, acc: &mut A, step: impl Fn(&Self, &mut A, u32) -> ControlFlow<()>) {
        self.tables.repeat(count, acc, |_, acc, i| step(self, acc, i));
    }
}
