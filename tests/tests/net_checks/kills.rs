//! The agent is killed at any moment, while checks flap, the configuration changes and clients ask.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_common::reason::{Action, Reason};
use lb_tests::agent::Agent;
use lb_tests::lab::Lab;
use lb_tests::listing::dest;
use lb_tests::need;
use lb_tests::peer::Connection;
use lb_user::bpf::{bpffs, status};
use nix::sys::signal::{Signal, kill};

use crate::scene::{Kind, Scene};

/// A hundred times in a full run.
fn rounds() -> u64 {
    if env::var_os("LB_TESTS_FULL").is_some_and(|full| full == "1") { 100 } else { 12 }
}

/// Numbers without a pattern, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        // Knuth's constants.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// No request fails, no rule is left over, and after each restart the tables hold what the configuration and the checks say.
/// One server's check flaps without the server's being ill, so that a failed request could only be the balancer's fault; a
/// second service comes and goes with the configuration; a third one is nobody's but the operator's.
///
/// A server that is taken out holds back the requests it has just got, whether the agent lives or not (`dest-gone`, as in
/// IPVS), and those of a client that uses the port of an old connection to it again. The first are answered when it is back;
/// the second are kept out of the test by ports that are used once. For any other reason no packet may be dropped.
pub fn killed_at_any_moment() -> Result<()> {
    need::network()?;
    let scene = Scene::new(Kind::Dr)?;
    let health = tempfile::NamedTempFile::new()?;
    fs::write(health.path(), "0")?;
    let flapping = "FILE_CHECK {\n track_file health\n }\n TCP_CHECK";
    let watched = format!("track_file health {{\n file {}\n weight 0\n}}\n", health.path().display());
    let one = watched + &scene.config("TCP", 80, "").replacen("TCP_CHECK", flapping, 1);
    let two = format!("{one}{}", scene.config("TCP", 8080, ""));
    scene.lab.ok("ipvsadm -A -t 10.211.55.8:99 -s wrr")?;
    scene.lab.ok("ipvsadm -a -t 10.211.55.8:99 -r 10.211.55.69 -g -w 7")?;

    let mut agent = Agent::start(&scene.lab, &scene.set.balancer.netns, &one)?;
    scene.lab_has(80, 2)?;
    let (stop, clients) = (AtomicBool::new(false), Clients::new(&scene)?);
    let before = drops(&clients.pins)?;
    thread::scope(|threads| {
        let asking: Vec<_> = (0..2).map(|_| threads.spawn(|| clients.ask(&stop))).collect();
        let flaps = threads.spawn(|| flap(health.path(), &stop));
        let killed = rounds_of_kills(&scene, &mut agent, [&one, &two], &stop);
        stop.store(true, Ordering::Relaxed);
        let ended = || "a thread of the test's panicked";
        for client in asking {
            let done = client.join().ok().with_context(ended)?;
            done.with_context(|| {
                format!("{:#?} {}", scene.lab.types("lb-user status; ipvsadm -Ln"), agent.log())
            })?;
        }
        flaps.join().ok().with_context(ended)??;
        killed
    })?;
    let dropped = since(&before, &drops(&clients.pins)?);
    let (asked, longest) = clients.done();
    println!("{asked} requests answered, the slowest in {longest:.1?}; packets dropped: {dropped:?}");
    ensure!(asked > rounds() * 5, "only {asked} requests were made");
    ensure!(
        dropped.keys().all(|reason| *reason == Reason::DestGone.label()),
        "packets were dropped: {dropped:?}"
    );
    agent.stop()
}

fn rounds_of_kills(
    scene: &Scene,
    agent: &mut Agent<'_>,
    configs: [&str; 2],
    stop: &AtomicBool,
) -> Result<()> {
    let mut dice = Dice(7);
    for round in 0..rounds() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let which = dice.below(2) as usize;
        fs::write(agent.path("keepalived.conf"), configs[which])?;
        // In the middle of a reload, of a change, of nothing.
        thread::sleep(Duration::from_millis(dice.below(700)));
        kill(agent.pid()?, Signal::SIGHUP)?;
        thread::sleep(Duration::from_millis(dice.below(120)));
        agent.kill()?;
        thread::sleep(Duration::from_millis(dice.below(200)));
        agent.again(&[])?;
        scene.lab_has(8080, if which == 1 { 2 } else { 0 }).with_context(|| format!("round {round}"))?;
        by_hand(&scene.lab)?;
    }
    Ok(())
}

/// What the operator has set is as it was.
fn by_hand(lab: &Lab) -> Result<()> {
    let row = dest("10.211.55.69:99".to_owned(), "Route", 7, 0, 0);
    let shown = lab.ok("ipvsadm -Ln -t 10.211.55.8:99")?;
    ensure!(shown.ends_with(&format!("TCP  10.211.55.8:99 wrr\n{row}")), "{shown}");
    Ok(())
}

/// Past this a request has failed, as it would for a client of IPVS's.
const PATIENCE: Duration = Duration::from_secs(10);

const FIRST_PORT: u16 = 1024;

/// Who makes new connections with a request on each, again and again.
struct Clients<'s> {
    scene: &'s Scene,
    /// The instance's, whose counters are read here.
    pins: PathBuf,
    /// The next connection's port: no port is used twice.
    port: AtomicU16,
    asked: AtomicU64,
    longest: Mutex<Duration>,
}

impl<'s> Clients<'s> {
    fn new(scene: &'s Scene) -> Result<Self> {
        let pins = scene.set.balancer.netns.enter(|| bpffs::instance(None))??;
        let (port, asked) = (AtomicU16::new(FIRST_PORT), AtomicU64::default());
        Ok(Self { scene, pins, port, asked, longest: Mutex::default() })
    }

    fn ask(&self, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let port = self.port.fetch_add(1, Ordering::Relaxed);
            ensure!(port >= FIRST_PORT, "all ports have been used");
            let (start, before) = (Instant::now(), drops(&self.pins)?);
            let (client, vip) = (&self.scene.set.client.netns, self.scene.set.vip(80)[0]);
            let asks = || Connection::open_from(client, port, vip, PATIENCE)?.who();
            if let Err(error) = asks() {
                stop.store(true, Ordering::Relaxed);
                let after = start.elapsed();
                return Err(error).with_context(|| self.failed(port, after, &before));
            }
            let mut longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
            *longest = start.elapsed().max(*longest);
            drop(longest);
            self.asked.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What the balancer knows of a request that failed.
    fn failed(&self, port: u16, after: Duration, before: &Drops) -> String {
        let listing = self.scene.lab.ok("ipvsadm -Lnc").unwrap_or_default();
        let entries: Vec<&str> = listing.lines().filter(|row| row.contains(&format!(":{port} "))).collect();
        let dropped = drops(&self.pins).map(|now| since(before, &now)).unwrap_or_default();
        format!(
            "a request from port {port} failed after {after:.1?}; its entry: {entries:?}; packets dropped meanwhile: {dropped:?}"
        )
    }

    fn done(&self) -> (u64, Duration) {
        let longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        (self.asked.load(Ordering::Relaxed), *longest)
    }
}

/// How many packets were dropped, by reason.
type Drops = BTreeMap<&'static str, u64>;

fn drops(pins: &Path) -> Result<Drops> {
    let all = Reason::ALL.iter().filter(|reason| reason.action() == Action::Drop);
    all.map(|reason| Ok((reason.label(), status::counted(pins, *reason)?))).collect()
}

/// Those that have risen, and by how much.
fn since(before: &Drops, now: &Drops) -> Drops {
    let risen = now.iter().map(|(&reason, count)| (reason, count - before.get(reason).unwrap_or(&0)));
    risen.filter(|(_, count)| *count > 0).collect()
}

/// The file the check looks at says ill, then well, then ill.
fn flap(health: &Path, stop: &AtomicBool) -> Result<()> {
    for status in ["1", "0"].iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        fs::write(health, status)?;
        thread::sleep(Duration::from_millis(1300));
    }
    fs::write(health, "0").context("the file of the check")
}
