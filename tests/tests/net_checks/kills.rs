//! The agent is killed at any moment, while checks flap, the configuration changes and clients ask.

use std::env;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::agent::Agent;
use lb_tests::lab::Lab;
use lb_tests::listing::dest;
use lb_tests::need;
use lb_tests::net::Netns;
use lb_tests::peer::Connection;
use nix::sys::signal::{Signal, kill};
use std::net::SocketAddr;

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
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let vip = scene.set.vip(80)[0];
    thread::scope(|threads| {
        let clients: Vec<_> =
            (0..2).map(|_| threads.spawn(|| ask(&scene.set.client.netns, vip, &stop, &asked))).collect();
        let flaps = threads.spawn(|| flap(health.path(), &stop));
        let killed = rounds_of_kills(&scene, &mut agent, [&one, &two], &stop);
        stop.store(true, Ordering::Relaxed);
        let ended = || "a thread of the test's panicked";
        for client in clients {
            let done = client.join().ok().with_context(ended)?;
            done.with_context(|| {
                format!("{:#?} {}", scene.lab.types("lb-user status; ipvsadm -Ln"), agent.log())
            })?;
        }
        flaps.join().ok().with_context(ended)??;
        killed
    })?;
    let asked = asked.load(Ordering::Relaxed);
    ensure!(asked > rounds() * 5, "only {asked} requests were made meanwhile");
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

/// A new connection and a request, again and again.
fn ask(client: &Netns, vip: SocketAddr, stop: &AtomicBool, asked: &AtomicU64) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let asks = || Connection::open(client, vip)?.who();
        if let Err(error) = asks() {
            stop.store(true, Ordering::Relaxed);
            return Err(error).context("a request failed");
        }
        asked.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The file the check looks at says ill, then well, then ill.
fn flap(health: &std::path::Path, stop: &AtomicBool) -> Result<()> {
    for status in ["1", "0"].iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        fs::write(health, status)?;
        thread::sleep(Duration::from_millis(1300));
    }
    fs::write(health, "0").context("the file of the check")
}
