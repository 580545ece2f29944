//! Putting the program on NICs and taking it off.
//!
//! Either all of an `attach` works or nothing of it stays: NICs that are new are attached first, NICs that run an
//! older program are switched over next (between two packets), pins are moved last.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use aya::Ebpf;

use super::bpffs::outside;
use super::create::{self, Undo};
use super::lock::{self, Hold};
use super::output::Output;
use super::pins::{self, Rules, traffic};
use super::publish::put_nic;
use super::reap::reap;
use super::route::{self, Nic};
use super::sizes::{Asked, Sizes};
use super::store::open_or_make;
use super::{buckets, fragments, local, status, syscall};
use crate::verbs::attach::Mode;

/// Links are pinned by this and the NIC's name.
pub const LINK: &str = "link-";
/// So are those of the program for real servers.
pub const REALSERVER: &str = "realserver-";

/// Stands for a NIC whose `clsact` qdisc was made for `lb_output`, which is what is pinned.
const CLSACT: &str = "clsact-";
/// The map of the programs that `lb` ends in, one to each `lb`.
pub const STAGES: &str = "stages";
/// What is not yet in its place.
const FRESH: &str = "new:";
/// Stands for a dot in a NIC's name: a pin's name may not have one, and a NIC's may not have this.
const DOT: &str = ":";

/// Of a link: in the driver.
pub const NATIVE: u32 = 1 << 2;
const GENERIC: u32 = 1 << 1;

/// Attaches to NICs; the lines to print.
pub fn attach(dir: &Path, names: &[String], mode: Mode, asked: &Asked) -> Result<Vec<String>> {
    // Before anything is made.
    wanted(&route::nics()?, names)?;
    let mut undo = Undo::default();
    if !dir.exists() {
        undo.directory(dir);
    }
    reap(dir);
    let _lock = lock::make(dir)?;
    finish(dir)?;
    let nics = route::nics()?;
    let wanted = not_taken(dir, wanted(&nics, names)?, LINK)?;
    let rules = open_or_make(dir, asked.dests, &mut undo)?;
    let sizes = sizes(dir, &rules, asked)?;
    let (mut ebpf, stages) = create::programs(dir, &sizes, &mut undo)?;
    if rules.settings()?.services_v6.load() != 0 {
        buckets::make_v6(dir)?;
    }
    create::start_sweep(&mut ebpf)?;
    put_ways(dir, &nics)?;
    allow_lookups();
    // Before `lb` runs: without them it would drop what they are for.
    let fresh = dir.join(format!("{FRESH}{STAGES}"));
    create::remove(&fresh)?;
    stages.pin(&fresh).with_context(|| format!("pinning {}", fresh.display()))?;
    undo.file(fresh.clone());
    let mut said = put_on(dir, &wanted, mode, &ebpf, LINK, "lb")?;
    fs::rename(&fresh, dir.join(STAGES)).context("pinning the programs lb ends in")?;
    if let Err(error) = local::attach(dir, &mut ebpf) {
        said.push(format!("clients on this machine itself are not balanced: {error:#}"));
    }
    if let Err(error) = watch_output(dir, &ebpf) {
        said.push(format!("replies of servers on this machine itself are not translated: {error:#}"));
    }
    if let Err(error) = fragments::attach(dir, &mut ebpf, rules.settings()?) {
        said.push(format!("fragments that come before their first are dropped: {error:#}"));
    }
    for name in ["lb", "lb_control"] {
        replace_pin(program(&ebpf, name)?, &dir.join(name))?;
    }
    undo.keep();
    Ok(said)
}

/// Puts the program for real servers on NICs.
pub fn attach_realserver(dir: &Path, names: &[String], mode: Mode) -> Result<Vec<String>> {
    // Before anything is made.
    wanted(&route::nics()?, names)?;
    let mut undo = Undo::default();
    if !dir.exists() {
        undo.directory(dir);
    }
    reap(dir);
    let _lock = lock::make(dir)?;
    finish(dir)?;
    let nics = route::nics()?;
    let wanted = not_taken(dir, wanted(&nics, names)?, REALSERVER)?;
    let ebpf = create::realserver()?;
    let said = put_on(dir, &wanted, mode, &ebpf, REALSERVER, "lb_realserver")?;
    undo.keep();
    Ok(said)
}

/// The NICs with these names, once each.
fn wanted<'a>(nics: &'a [Nic], names: &[String]) -> Result<Vec<&'a Nic>> {
    let mut wanted: Vec<&Nic> = Vec::new();
    for name in names {
        let nic = nics.iter().find(|nic| nic.name == *name).with_context(|| {
            let known: Vec<&str> = nics
                .iter()
                .filter(|nic| !nic.loopback && !fragments::is_end(nic))
                .map(|nic| nic.name.as_str())
                .collect();
            format!("{name}: no such interface (there are: {})", known.join(", "))
        })?;
        ensure!(!nic.loopback, "{name} is the loopback interface: attach to the one traffic comes in on");
        ensure!(
            nic.ethernet,
            "{name} does not carry Ethernet frames: the balancer works on Ethernet interfaces"
        );
        if !wanted.iter().any(|other| other.index == nic.index) {
            wanted.push(nic);
        }
    }
    Ok(wanted)
}

/// These, unless one of them has a program that is none of those links'. Asked before anything is loaded, which takes
/// longest.
fn not_taken<'a>(dir: &Path, wanted: Vec<&'a Nic>, prefix: &str) -> Result<Vec<&'a Nic>> {
    let (ours, other, what, command) = match prefix {
        LINK => (LINK, REALSERVER, "the program for real servers", "lb-user realserver --detach"),
        _ => (REALSERVER, LINK, "the balancer", "lb-user detach"),
    };
    let (ours, other) = (linked(dir, ours)?, linked(dir, other)?);
    match wanted.iter().find(|nic| nic.xdp.is_some() && !ours.contains(&nic.index)) {
        Some(nic) if other.contains(&nic.index) => {
            bail!(
                "{0}: {what} is attached to it, and a NIC has one of them: `{command} {0}` takes it off",
                nic.name
            )
        }
        Some(nic) => bail!(taken(nic)),
        None => Ok(wanted),
    }
}

/// Numbers of the NICs that links are on.
fn linked(dir: &Path, prefix: &str) -> Result<Vec<u32>> {
    let links = links(dir, prefix)?;
    Ok(links
        .values()
        .filter_map(|link| syscall::xdp_link(link.as_fd()).ok())
        .map(|(_, index)| index)
        .collect())
}

/// Sizes of the connection tables: as asked, else as they are, else as usual.
fn sizes(dir: &Path, rules: &Rules, asked: &Asked) -> Result<Sizes> {
    let of = |usual: u32| Sizes::of(asked.connections.unwrap_or(usual), asked.connections_v6);
    let Some(present) = Sizes::present(dir)? else {
        clear_traffic(dir)?;
        let sizes = of(Sizes::usual());
        sizes.fit_memory()?;
        return Ok(sizes);
    };
    let asked = match (asked.connections, asked.connections_v6) {
        (None, None) => present,
        _ => of(present.connections_v4() as u32),
    };
    if asked == present {
        return Ok(present);
    }
    let room = format!(
        "the connection table has room for {} connections and {} of IPv6",
        present.connections_v4(),
        present.connections_v6()
    );
    ensure!(links(dir, LINK)?.is_empty(), "{room}; to change that, detach first");
    ensure!(
        !rules.dests.iter().any(super::dests::referenced),
        "{room} and is in use; `lb-user detach --purge` forgets them"
    );
    asked.fit_memory()?;
    clear_traffic(dir)?;
    Ok(asked)
}

fn clear_traffic(dir: &Path) -> Result<()> {
    buckets::remove_v6(dir)?;
    pins::TRAFFIC.iter().try_for_each(|spec| create::remove(&dir.join(spec.name)))
}

/// Every NIC packets may leave by, and what VLAN devices stand for.
fn put_ways(dir: &Path, nics: &[Nic]) -> Result<()> {
    let egress = traffic("egress")?.require(dir)?;
    let vlans = traffic("vlans")?.require(dir)?;
    for nic in nics.iter().filter(|nic| nic.ethernet && !nic.loopback) {
        put_nic(&egress, nic.index)?;
        if let Some((parent, id)) = nic.vlan {
            syscall::update(pins::fd(&vlans), &nic.index, &[parent, u32::from(id)])
                .with_context(|| format!("noting the VLAN of {}", nic.name))?;
        }
    }
    Ok(())
}

/// Lets programs ask for routes where the machine does not forward: the kernel answers only on behalf of a NIC that
/// does. The loopback interface is taken for that one: nothing ever comes in there that could be forwarded.
fn allow_lookups() {
    for family in ["ipv4", "ipv6"] {
        // A kernel without the family has no such file, and no such packets.
        let _ = fs::write(format!("/proc/sys/net/{family}/conf/lo/forwarding"), "1");
    }
}

/// A loaded program.
pub fn program<'a>(ebpf: &'a Ebpf, name: &str) -> Result<BorrowedFd<'a>> {
    let program = ebpf.program(name).with_context(|| format!("there is no program {name}"))?;
    Ok(program.fd().with_context(|| format!("the program {name} is not loaded"))?.as_fd())
}

/// Puts the program for replies of this machine's own servers on every NIC that `lb` is on.
fn watch_output(dir: &Path, ebpf: &Ebpf) -> Result<()> {
    let program = program(ebpf, "lb_output")?;
    let mut output = Output::open()?;
    for (name, link) in links(dir, LINK)? {
        // The NIC of a link may be gone.
        let Some(nic) = index(&link) else { continue };
        let made =
            output.attach(program, nic).with_context(|| format!("{name}: the kernel refuses a filter"))?;
        if made {
            replace_pin(program, &link_path(dir, CLSACT, &name))?;
        }
    }
    Ok(())
}

/// Takes it off a NIC, with the qdisc if that was made for it.
fn leave_output(dir: &Path, name: &str, nic: u32) -> Result<()> {
    let mut output = Output::open()?;
    output.detach(nic).with_context(|| format!("{name}: taking the filter off"))?;
    if link_path(dir, CLSACT, name).exists() {
        // Left behind, an empty one does no harm.
        let _ = output.remove_qdisc(nic);
    }
    Ok(())
}

/// The number of a link's NIC, if that is still there.
fn index(link: &OwnedFd) -> Option<u32> {
    syscall::xdp_link(link.as_fd()).ok().map(|(_, index)| index).filter(|index| *index != 0)
}

/// Attaches and switches over, or leaves everything as it was.
fn put_on(
    dir: &Path,
    wanted: &[&Nic],
    mode: Mode,
    ebpf: &Ebpf,
    prefix: &str,
    name: &str,
) -> Result<Vec<String>> {
    let program = program(ebpf, name)?;
    let mut said = Vec::new();
    let mut fresh: Vec<(&Nic, PathBuf, OwnedFd)> = Vec::new();
    let mut links = links(dir, prefix)?;
    for nic in wanted {
        let old = links.get(&nic.name).and_then(|link| syscall::xdp_link(link.as_fd()).ok());
        if old.is_some_and(|(_, index)| index == nic.index) && mode_fits(nic, mode) {
            said.push(format!("{}: attached already, {}", nic.name, status::mode_name(nic.xdp)));
            continue;
        }
        // Another mode is asked for, or the NIC of that name is another one now. A NIC cannot be in two modes.
        let path = link_path(dir, prefix, &nic.name);
        if let Some(old) = links.remove(&nic.name) {
            let _ = syscall::detach_link(old.as_fd());
        }
        match attach_one(program, nic, mode) {
            Ok((link, line)) => {
                said.push(line);
                fresh.push((nic, path, link));
            }
            Err(error) => {
                put_back(program, nic, &path);
                for (nic, path, link) in &fresh {
                    let _ = syscall::detach_link(link.as_fd());
                    put_back(program, nic, path);
                }
                return Err(error);
            }
        }
    }
    switch_over(&links, program, &dir.join(name))?;
    for (_, path, link) in &fresh {
        replace_pin(link.as_fd(), path)?;
    }
    Ok(said)
}

/// The mode a NIC had before one that does not work was asked for.
fn put_back(program: BorrowedFd<'_>, nic: &Nic, path: &Path) {
    let flags = if nic.xdp.is_some_and(|(mode, _)| mode == 2) { GENERIC } else { NATIVE };
    if path.exists() && nic.xdp.is_some() {
        // What went wrong first is the thing to tell.
        let _ = syscall::create_link(program, nic.index, flags)
            .map_err(anyhow::Error::from)
            .and_then(|link| replace_pin(link.as_fd(), path));
    }
}

fn mode_fits(nic: &Nic, mode: Mode) -> bool {
    let generic = nic.xdp.is_some_and(|(mode, _)| mode == 2);
    match mode {
        Mode::Auto => true,
        Mode::Native => !generic,
        Mode::Generic => generic,
    }
}

/// All links get the new program; if one cannot, those before it get the old one back.
fn switch_over(links: &BTreeMap<String, OwnedFd>, program: BorrowedFd<'_>, old: &Path) -> Result<()> {
    let mut done: Vec<&OwnedFd> = Vec::new();
    for (name, link) in links {
        // The NIC of a link may be gone, and its namespace with it.
        if syscall::xdp_link(link.as_fd()).is_ok_and(|(_, index)| index == 0) {
            continue;
        }
        if let Err(error) = syscall::update_link(link.as_fd(), program) {
            if let Ok(old) = syscall::open_pin(old) {
                done.iter().for_each(|link| drop(syscall::update_link(link.as_fd(), old.as_fd())));
            }
            return Err(error).with_context(|| format!("{name}: replacing the program"));
        }
        done.push(link);
    }
    Ok(())
}

fn attach_one(program: BorrowedFd<'_>, nic: &Nic, mode: Mode) -> Result<(OwnedFd, String)> {
    let down = if nic.up { "" } else { "; it is down: `ip link set dev NAME up` switches it on" };
    let down = down.replace("NAME", &nic.name);
    let line = |mode: &str| format!("{}: attached, {mode} mode{down}", nic.name);
    let why = match mode {
        Mode::Generic => None,
        Mode::Auto | Mode::Native => match syscall::create_link(program, nic.index, NATIVE) {
            Ok(link) => return Ok((link, line("native"))),
            Err(error) if is_taken(&error) => bail!(taken(nic)),
            Err(error) if mode == Mode::Native => {
                bail!("{}: native mode does not work: {}", nic.name, why(&error))
            }
            Err(error) => Some(why(&error)),
        },
    };
    match syscall::create_link(program, nic.index, GENERIC) {
        Ok(link) => {
            let because = why.map_or(String::new(), |why| format!(" (native mode does not work: {why})"));
            Ok((link, line("generic") + &because))
        }
        Err(error) if is_taken(&error) => bail!(taken(nic)),
        Err(error) => bail!("{}: the program cannot be attached: {}", nic.name, self::why(&error)),
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

fn taken(nic: &Nic) -> String {
    format!(
        "{}: another XDP program is attached to it ({}): take that off first, for example with `ip link set dev {0} xdp off`",
        nic.name,
        nic.xdp.map_or("unknown".to_owned(), |(_, id)| format!("id {id}"))
    )
}

fn why(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "the driver has no XDP".to_owned(),
        Some(libc::EINVAL | libc::ERANGE) => format!("the driver refuses, perhaps for its MTU: {error}"),
        _ => error.to_string(),
    }
}

fn link_path(dir: &Path, prefix: &str, nic: &str) -> PathBuf {
    dir.join(format!("{prefix}{}", nic.replace('.', DOT)))
}

/// Pins in the place of what was pinned there.
pub fn replace_pin(object: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let mut name = OsString::from(FRESH);
    name.push(path.file_name().unwrap_or_default());
    let fresh = path.with_file_name(name);
    create::remove(&fresh)?;
    syscall::pin(object, &fresh).with_context(|| format!("pinning {}", fresh.display()))?;
    fs::rename(&fresh, path).with_context(|| format!("pinning {}", path.display()))
}

/// Moves to their places the pins of a command that was killed before it did: a link among them holds its NIC.
fn finish(dir: &Path) -> Result<()> {
    for name in files(dir)? {
        if let Some(place) = name.strip_prefix(FRESH) {
            fs::rename(dir.join(&name), dir.join(place)).with_context(|| format!("pinning {place}"))?;
        }
    }
    Ok(())
}

/// The pinned links, by the NIC's name.
pub fn links(dir: &Path, prefix: &str) -> Result<BTreeMap<String, OwnedFd>> {
    let mut links = BTreeMap::new();
    for name in files(dir)? {
        if let Some(nic) = name.strip_prefix(prefix) {
            let link = syscall::open_pin(&dir.join(&name)).with_context(|| {
                format!("{} is not a link of the balancer's", outside(&dir.join(&name)).display())
            })?;
            links.insert(nic.replace(DOT, "."), link);
        }
    }
    Ok(links)
}

/// Is the balancer on a NIC?
pub fn is_attached(dir: &Path) -> bool {
    files(dir).is_ok_and(|files| files.iter().any(|name| name.starts_with(LINK)))
}

fn files(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("reading {}", dir.display()))?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Takes the program off NICs; no names: off all.
pub fn detach(dir: &Path, names: &[String], purge: bool) -> Result<Vec<String>> {
    let said = take_off(dir, names, LINK, purge)?;
    if purge {
        let _lock = lock::take(dir, Hold::Alone)?;
        // The mark of a whole table goes first: what a killed purge leaves is none.
        create::remove(&dir.join("settings"))?;
        for name in files(dir)? {
            // Real servers are no part of the balancer.
            if !name.starts_with(REALSERVER) {
                create::remove(&dir.join(name))?;
            }
        }
        if let Err(error) = fs::remove_dir(dir)
            && !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty)
        {
            return Err(error).with_context(|| format!("removing {}", dir.display()));
        }
    }
    Ok(said)
}

/// Takes the program for real servers off.
pub fn detach_realserver(dir: &Path, names: &[String]) -> Result<Vec<String>> {
    let said = take_off(dir, names, REALSERVER, false)?;
    if files(dir)?.is_empty() {
        let _ = fs::remove_dir(dir);
    }
    Ok(said)
}

fn take_off(dir: &Path, names: &[String], prefix: &str, purge: bool) -> Result<Vec<String>> {
    let Some(_lock) = lock::take(dir, Hold::Alone)? else {
        ensure!(names.is_empty(), "{}: not attached", names.join(", "));
        return Ok(Vec::new());
    };
    finish(dir)?;
    let links = links(dir, prefix)?;
    if let Some(other) = names.iter().find(|name| !links.contains_key(*name)) {
        bail!("{other}: not attached");
    }
    let all = names.is_empty();
    if purge && !all && names.len() < links.len() {
        bail!("--purge forgets what other interfaces still use: detach all of them");
    }
    let mut said = Vec::new();
    for (name, link) in links.iter().filter(|(name, _)| all || names.contains(name)) {
        if prefix == LINK {
            if let Some(nic) = index(link) {
                leave_output(dir, name, nic)?;
            }
            create::remove(&link_path(dir, CLSACT, name))?;
        }
        // Without a NIC there is nothing to take it off.
        let gone = syscall::xdp_link(link.as_fd()).is_ok_and(|(_, index)| index == 0);
        if !gone {
            syscall::detach_link(link.as_fd()).with_context(|| format!("{name}: taking the program off"))?;
        }
        create::remove(&link_path(dir, prefix, name))?;
        said.push(format!("{name}: detached"));
    }
    if prefix == LINK && (all || names.len() == links.len()) {
        local::detach(dir)?;
        // Tables that cannot be read are no reason to leave the NICs.
        let rules = Rules::open(dir).ok().flatten();
        fragments::detach(dir, rules.as_ref().and_then(|rules| rules.settings().ok()))?;
    }
    Ok(said)
}
