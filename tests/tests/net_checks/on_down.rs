//! `on_down`: what becomes of a dead server's connections.

use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::agent::Agent;
use lb_tests::need;
use lb_tests::peer::curl::url;
use lb_tests::peer::udp::{Asker, Echo};
use lb_tests::run;

use crate::scene::{KINDS, Kind, Scene};

/// A server's cable is pulled while clients wait for it to say something, and one reads a file: all of them are told within
/// seconds. Nothing else would have told them for a quarter of an hour.
pub fn waiting_clients_are_reset() -> Result<()> {
    need::network()?;
    for kind in KINDS {
        let scene = Scene::new(kind)?;
        let mut agent =
            Agent::start(&scene.lab, &scene.set.balancer.netns, &scene.config("TCP", 80, "on_down reset"))?;
        scene.has_servers(2)?;
        let (mut doomed, mut others) = (scene.connections_to(0)?, scene.connections_to(1)?);
        let mut readers = slow_readers(&scene)?;
        scene.cut_off(0)?;
        let cut = Instant::now();
        for connection in &mut doomed {
            let how = connection.ends(Duration::from_secs(12))?;
            ensure!(how == Some(ErrorKind::ConnectionReset), "{kind:?}: it ended by {how:?}");
        }
        // A second at most to the next check, one for its attempt, and some for a busy machine.
        ensure!(cut.elapsed() < Duration::from_secs(8), "{kind:?}: reset only after {:?}", cut.elapsed());
        scene.has_servers(1)?;
        let reset = || {
            let mut ended = readers.iter_mut().filter_map(|reader| reader.try_wait().ok().flatten());
            // 56: failure in receiving network data.
            ended.find(|status| status.code() == Some(56)).map(drop)
        };
        run::until(Duration::from_secs(10), "the reset of a reader", reset).with_context(|| {
            format!(
                "{kind:?}
{}",
                agent.log()
            )
        })?;
        for connection in &mut others {
            connection.who()?;
        }
        ensure!(scene.counted("reset-sent")? >= 3, "{}", scene.lab.ok("lb-user status")?);
        agent.stop()?;
        for mut reader in readers {
            reader.kill().ok();
            reader.wait()?;
        }
    }
    Ok(())
}

/// Two curls that are sent a big file slowly, for half a minute: round robin gives each server one.
fn slow_readers(scene: &Scene) -> Result<Vec<std::process::Child>> {
    let vip = scene.set.vip(80)[0];
    let start = || {
        let mut command = scene.set.client.netns.command("curl");
        command.args(["-sS", "--max-time", "60", "-o", "/dev/null", &url(vip, "/slowest/big")]);
        command.stderr(std::process::Stdio::null());
        run::die_with_us(&mut command).spawn()
    };
    let readers = [start()?, start()?];
    // Under way.
    thread::sleep(Duration::from_secs(1));
    Ok(readers.into())
}

/// The other server knows nothing of the connection, and says so to the client's next packet.
pub fn connections_move_to_who_is_left() -> Result<()> {
    need::network()?;
    for kind in KINDS {
        let scene = Scene::new(kind)?;
        let _agent =
            Agent::start(&scene.lab, &scene.set.balancer.netns, &scene.config("TCP", 80, "on_down move"))?;
        scene.has_servers(2)?;
        let mut doomed = scene.connections_to(0)?;
        scene.cut_off(0)?;
        scene.has_servers(1)?;
        for connection in &mut doomed {
            let asked = Instant::now();
            let Err(error) = connection.who() else { bail!("{kind:?}: somebody has answered") };
            let io = error.root_cause().downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            ensure!(io == Some(ErrorKind::ConnectionReset), "{kind:?}: {error:#}");
            ensure!(asked.elapsed() < Duration::from_secs(2), "{kind:?}: after {:?}", asked.elapsed());
        }
        ensure!(scene.counted("reset-sent")? == 0, "it is the server who resets");
    }
    Ok(())
}

/// IPVS's way, where nobody says anything else: the client waits.
pub fn clients_are_left_alone() -> Result<()> {
    need::network()?;
    let scene = Scene::new(Kind::Dr)?;
    let _agent = Agent::start(&scene.lab, &scene.set.balancer.netns, &scene.config("TCP", 80, ""))?;
    scene.has_servers(2)?;
    let mut doomed = scene.connections_to(0)?;
    scene.cut_off(0)?;
    scene.has_servers(1)?;
    for connection in &mut doomed {
        ensure!(connection.ends(Duration::from_secs(3)).is_err(), "it was ended");
    }
    ensure!(scene.counted("reset-sent")? == 0);
    // What is back has its connections back.
    scene.set.servers[0].netns.ip("link set eth0 up")?;
    Ok(())
}

/// Datagrams from the same port, whatever `on_down` says.
pub fn datagrams_go_elsewhere_at_once() -> Result<()> {
    const PORT: u16 = 5353;
    need::network()?;
    for words in ["", "on_down reset", "on_down move", "inhibit_on_failure"] {
        let scene = Scene::new(Kind::Dr)?;
        let vips = scene.set.vip(PORT);
        let echo = |server: &lb_tests::topo::Server| Echo::start(&server.netns, &server.name(), &vips);
        let _echoes = scene.set.servers.iter().map(echo).collect::<Result<Vec<_>>>()?;
        let config = scene.config("UDP", PORT, words);
        let config = match words {
            // A word of the servers.
            "inhibit_on_failure" => {
                scene.config("UDP", PORT, "").replace(" weight 1\n", " weight 1\n inhibit_on_failure\n")
            }
            _ => config,
        };
        let _agent = Agent::start(&scene.lab, &scene.set.balancer.netns, &config)?;
        scene.has_servers(2)?;
        let askers = vips.iter().map(|vip| asker_of(&scene, *vip)).collect::<Result<Vec<_>>>()?;
        scene.cut_off(0)?;
        let gone = scene.set.servers[0].address;
        // Each family has a service of its own, with checks at times of their own.
        let of_gone = [gone.v4.to_string(), gone.v6.to_string()];
        let entries = || scene.lab.ok("ipvsadm -Lnc");
        let dropped =
            || entries().is_ok_and(|said| !of_gone.iter().any(|gone| said.contains(gone))).then_some(());
        run::until(Duration::from_secs(15), "the end of the dead server's entries", dropped)?;
        for asker in askers {
            ensure!(asker.ask()? == scene.set.servers[1].name(), "{words}");
        }
    }
    Ok(())
}

/// A client's port whose datagrams go to the first server.
fn asker_of(scene: &Scene, vip: std::net::SocketAddr) -> Result<Asker> {
    for _ in 0..2 {
        let asker = Asker::new(&scene.set.client.netns, vip)?;
        if asker.ask()? == scene.set.servers[0].name() {
            return Ok(asker);
        }
    }
    bail!("nobody gets to the first server")
}
