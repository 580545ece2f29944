//! FTP under NAT: a real server and a real client, active and passive, both families.

use anyhow::{Context, Result, ensure};
use lb_tests::lab::Lab;
use lb_tests::peer::Vsftpd;
use lb_tests::topo::{self, Plan};
use lb_tests::{need, pace, run, stale};
use std::fs;
use std::net::SocketAddr;

/// Virtual address and server: one longer than the other in a 227, and the other way round.
const PLANS: [(&str, &str); 2] = [("10.211.55.8", "10.211.55.169"), ("10.211.55.208", "10.211.55.9")];
/// How curl is told to have its data connection.
const MODES: [&[&str]; 4] =
    [&["--disable-epsv"], &[], &["--ftp-port", "-", "--disable-eprt"], &["--ftp-port", "-"]];

pub fn files_by_ftp() -> Result<()> {
    need::network()?;
    need::programs(&["vsftpd"])?;
    PLANS.iter().try_for_each(|plan| through(plan).with_context(|| format!("{plan:?}")))
}

fn through((vip, server): &(&str, &str)) -> Result<()> {
    let set = topo::nat(&Plan::new(vip, &[server])?)?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    let server = set.servers.first().context("no server")?;
    let ftp = Vsftpd::start(&server.netns, set.content.big())?;
    for (family, vip) in set.vip(21).into_iter().enumerate() {
        lab.quiet(&format!("ipvsadm -A -t {vip} -s rr"))?;
        let at = server.address.with_port(21)[family];
        lab.quiet(&format!("ipvsadm -a -t {vip} -r {at} -m"))?;
        for (nth, mode) in MODES.iter().enumerate() {
            // IPv6 has only the extended commands.
            if family == 1 && mode.iter().any(|word| word.starts_with("--disable")) {
                continue;
            }
            let name = format!("upload-{family}-{nth}");
            transfer(&set, vip, mode, &name, &ftp).with_context(|| format!("{vip} {mode:?}"))?;
        }
    }
    Ok(())
}

/// A file down and the same one up again.
fn transfer(set: &topo::Topology, vip: SocketAddr, mode: &[&str], name: &str, ftp: &Vsftpd) -> Result<()> {
    let directory = stale::directory()?;
    let file = directory.path().join("file");
    let curl = || {
        let mut command = set.client.netns.command("curl");
        command.args(["-sSf", "--max-time", &pace::seconds(30)]).args(mode);
        command
    };
    run::run(curl().arg("-o").arg(&file).arg(format!("ftp://{vip}/file")))?.ok().context("download")?;
    ensure!(fs::read(&file)? == set.content.big(), "the file has changed on its way");
    run::run(curl().arg("-T").arg(&file).arg(format!("ftp://{vip}/in/{name}")))?.ok().context("upload")?;
    ensure!(fs::read(ftp.uploaded(name))? == set.content.big(), "the file has changed on its way up");
    Ok(())
}
