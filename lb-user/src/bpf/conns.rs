//! Reading the connection table while packets change it: control word, key, control word again.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use lb_common::addr::{Addr, Port, Proto};
use lb_common::conn::{Bucket4, Bucket6, Entry, Ways, bound, ctl, tag};
use lb_common::dest::Dest;
use lb_common::ip::{Address as _, Ip, V4, V6};
use lb_common::request::{Request, status};
use lb_common::service::ServiceKey;
use lb_common::settings::Settings;
use lb_common::sip::Call;
use lb_common::state;
use lb_common::table::{self, SLOT_OVERFLOW};
use lb_common::tables::control_key;

use super::buckets;
use super::clock::Now;
use super::dests;
use super::memory::{self, Access, Mapped, Shared};
use super::pins::{self, Rules, traffic};
use super::sizes::Sizes;
use super::{said, syscall};
use crate::control::model::{ConnRow, DestId, End, Engine, ServiceId};

/// Connections and templates, in the order of the table. Nothing is attached yet: none.
pub fn rows(dir: &Path, rules: &Rules) -> Result<Vec<ConnRow>> {
    read(dir, rules, None)
}

/// Those of these dests, whether they are deleted or not.
pub fn rows_of(dir: &Path, rules: &Rules, wanted: &[(ServiceId, DestId)]) -> Result<Vec<ConnRow>> {
    let wanted: HashSet<(ServiceKey, DestId)> =
        wanted.iter().map(|(service, dest)| (ServiceKey::from(*service), *dest)).collect();
    let is_wanted =
        |dest: &Dest| dests::used(dest) && wanted.contains(&(dests::owner(dest).key, dests::id(dest)));
    let slots = (0..).zip(rules.dests.iter()).filter(|(_, dest)| is_wanted(dest)).map(|(slot, _)| slot);
    read(dir, rules, Some(slots.collect()))
}

fn read(dir: &Path, rules: &Rules, only: Option<HashSet<u32>>) -> Result<Vec<ConnRow>> {
    let mut reader = Reader {
        only,
        rules,
        settings: rules.settings()?,
        now: Now::read().context("reading the packet path's clock")?,
        calls: calls(dir)?,
        rows: Vec::new(),
    };
    reader.family::<V4, Bucket4>(dir, "overflow4")?;
    reader.family::<V6, Bucket6>(dir, "overflow6")?;
    Ok(reader.rows)
}

/// Takes out connections of dests that are gone, or dead: `what` is the verb of the request. Nothing is attached yet: there are
/// none.
pub fn expire(dir: &Path, what: u32) -> Result<()> {
    /// Buckets of one request: a few milliseconds.
    const SHARE: u32 = 16_384;
    let path = dir.join("lb_control");
    let Ok(program) = syscall::open_pin(&path) else { return Ok(()) };
    let sizes = Sizes::present(dir)?.context("the connection tables are not whole")?;
    let buckets = sizes.buckets_v4.max(sizes.buckets_v6);
    // Templates go when nothing depends on them any more: in a second round.
    for from in (0..buckets).step_by(SHARE as usize).chain((0..buckets).step_by(SHARE as usize)) {
        let request = Request::bytes(what, from, SHARE);
        let answer = syscall::test_run(program.as_fd(), &request).context("expiring connections")?;
        ensure!(
            answer == status::DONE,
            "the server is gone, but its connections live on ({}): `lb-user attach` puts in a program that can expire them",
            said::by_pinned(&path)
        );
    }
    Ok(())
}

struct Reader<'a> {
    /// Connections of these dests, if not of all.
    only: Option<HashSet<u32>>,
    rules: &'a Rules,
    settings: &'a Settings,
    now: Now,
    /// Whose calls templates are for, by the template's slot and generation.
    calls: HashMap<u64, Call>,
    rows: Vec<ConnRow>,
}

impl Reader<'_> {
    fn family<F: Ip, B: Shared + Ways<F::Entry>>(&mut self, dir: &Path, overflow: &str) -> Result<()> {
        let Some(map) = buckets::open(dir, F::FAMILY)? else { return Ok(()) };
        let count = pins::entries(&map)? as usize;
        let mapped =
            Mapped::<B>::new(pins::fd(&map), count, Access::Read).context("mapping the connections")?;
        (0..).zip(mapped.all()).for_each(|(n, bucket)| self.bucket::<F>(bucket, table::base::<F>(n)));
        if let Some(map) = traffic(overflow)?.open(dir)? {
            let second: Vec<(u32, [u32; 64])> =
                syscall::all(pins::fd(&map)).context("reading the overflow")?;
            for (n, words) in &second {
                self.bucket::<F>(&memory::bucket::<B>(words), table::base::<F>(*n) | SLOT_OVERFLOW);
            }
        }
        Ok(())
    }

    fn bucket<F: Ip>(&mut self, bucket: &impl Ways<F::Entry>, base: u32) {
        for way in 0..F::Entry::WAYS {
            let row = self.entry::<F>(bucket.way(way), base + way);
            self.rows.extend(row);
        }
    }

    fn entry<F: Ip>(&self, entry: &F::Entry, slot: u32) -> Option<ConnRow> {
        let life = entry.life();
        let before = life.ctl.load_acquire();
        if !ctl::is_live(before) {
            return None;
        }
        let (flow, tag, last, dest) = (entry.flow(), entry.tag().load(), life.last.load(), life.dest.load());
        if life.ctl.load_acquire() & ctl::IDENTITY != before & ctl::IDENTITY {
            return None;
        }
        let is_of =
            |dests: &HashSet<u32>| dest & bound::NO_DEST == 0 && dests.contains(&(dest & bound::DEST));
        if !self.only.as_ref().is_none_or(is_of) {
            return None;
        }
        let state = (before & ctl::STATE) as u8;
        let template = tag & tag::TEMPLATE != 0;
        let now = self.now.ticks;
        let left = if template {
            if table::run_out(last, now) { 0 } else { last.wrapping_sub(now) }
        } else {
            // Its time is up; the sweep will come by.
            if table::expired(self.settings, tag, before, last, now) {
                return None;
            }
            let timeout = self.settings.timeout(flow.proto, u32::from(state)).load();
            timeout.wrapping_sub(now.wrapping_sub(last))
        };
        let end = |addr: Addr, port: Port| End { addr: addr.to_ip(F::FAMILY), port };
        // A template that is no longer to be found is listed with a port nobody has.
        let orphan = tag & (tag::TEMPLATE | tag::ORPHAN) == tag::TEMPLATE | tag::ORPHAN;
        let virt = end(flow.vaddr.wide(), if orphan { Port::new(u16::MAX) } else { flow.vport });
        let key = control_key(slot, before & ctl::IDENTITY);
        let call = if tag & tag::ENGINE != 0 { self.calls.get(&key).copied() } else { None };
        // It, and one for several ports, has its virtual port at both ends.
        let several = orphan || template && virt.port.is_zero();
        let dest = self.dest(dest, virt);
        Some(ConnRow {
            proto: flow.proto,
            expires: u64::from(left / self.now.hz.max(1)),
            state: name(flow.proto, state, template),
            client: call.map_or(end(flow.client.wide(), flow.cport), |call| end(call.client, Port::ZERO)),
            virt,
            dest: if several { End { port: virt.port, ..dest } } else { dest },
            engine: call.map(|call| (Engine::Sip, text(&call))),
        })
    }

    fn dest(&self, word: u32, virt: End) -> End {
        if word & bound::NO_DEST != 0 {
            let nowhere =
                if virt.addr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            return End { addr: nowhere, port: Port::ZERO };
        }
        let Some(dest) = self.rules.dests.get(word & bound::DEST) else { return virt };
        let id = dests::id(dest);
        End { addr: id.addr, port: dest.port_of(word, virt.port) }
    }
}

fn calls(dir: &Path) -> Result<HashMap<u64, Call>> {
    let Some(map) = traffic("calls")?.open(dir)? else { return Ok(HashMap::new()) };
    Ok(syscall::all(pins::fd(&map)).context("reading the calls")?.into_iter().collect())
}

/// A Call-ID as text; the engine takes none with other than printable bytes, but for Latin-1 letters.
fn text(call: &Call) -> String {
    call.bytes().map(char::from).collect()
}

fn name(proto: Proto, state: u8, template: bool) -> &'static str {
    match (template, state) {
        (true, 0) => "NONE",
        (true, _) => "ASSURED",
        (false, _) => state::name(proto, state),
    }
}
