//! What the agent may do after its start, and what its scripts may.

use anyhow::{Context, Result, ensure};
use lb_tests::agent::Agent;
use lb_tests::lab::Lab;
use lb_tests::listing::{dest, exact};
use lb_tests::net::Netns;
use lb_tests::topo::{self, Plan, Topology};
use lb_tests::{need, run};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// KILL, SETGID, SETUID, NET_BIND_SERVICE, NET_ADMIN, NET_RAW, PERFMON and BPF, by linux/capability.h's numbers.
const KEPT: u64 = 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 12 | 1 << 13 | 1 << 38 | 1 << 39;

/// What the unit's `CapabilityBoundingSet` has, for setpriv.
const AS_THE_UNIT: &str = "-all,+bpf,+perfmon,+net_admin,+net_raw,+net_bind_service,+setuid,+setgid,+kill";

/// What takes a right each, but for the script.
const CHECKS: &str = "PING_CHECK { bind_if eth0\n fwmark 7 }
  TCP_CHECK { bindto 192.168.26.2\n bind_port 80\n delay_loop 60 }
  MISC_CHECK { misc_path /bin/true }";

/// A server with these checks.
fn config(globals: &str, checks: &str) -> String {
    format!(
        "global_defs {{\n {globals}\n}}
virtual_server 192.168.26.200 80 {{
  delay_loop 1
  lb_algo rr
  lb_kind DR
  protocol TCP
  retry 1
  delay_before_retry 0.2
  warmup 0
  real_server 192.168.26.155 80 {{\n {checks}\n }}
}}\n"
    )
}

fn net() -> Result<Topology> {
    topo::dr(&Plan::new("192.168.26.200", &["192.168.26.155", "192.168.26.156"])?)
}

/// A table with servers of these last numbers, once for each port.
fn listed(ports: &[u16]) -> String {
    let service = |port| {
        format!("TCP  192.168.26.200:{port} rr\n{}", dest(format!("192.168.26.155:{port}"), "Route", 1, 0, 0))
    };
    exact(&ports.iter().map(service).collect::<String>())
}

/// One field of a `/proc/…/status`.
fn field<'s>(status: &'s str, name: &str) -> Result<&'s str> {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.map(str::trim).with_context(|| format!("no {name} in {status}"))
}

fn set(status: &str, name: &str) -> Result<u64> {
    Ok(u64::from_str_radix(field(status, name)?, 16)?)
}

/// Every thread of the agent has what it needs, and can get nothing else; gives how many there are.
fn all_have_the_same(agent: &Agent<'_>) -> Result<usize> {
    let before = set(&fs::read_to_string("/proc/self/status")?, "CapPrm")? & KEPT;
    let mut count = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", agent.pid()?))? {
        let path = thread?.path().join("status");
        let status = fs::read_to_string(&path)?;
        for (name, wanted) in
            [("CapEff", before), ("CapPrm", before), ("CapBnd", before), ("CapInh", 0), ("CapAmb", 0)]
        {
            let found = set(&status, name)?;
            ensure!(found == wanted, "{}: {name} is {found:x}, not {wanted:x}", path.display());
        }
        count += 1;
    }
    Ok(count)
}

fn metrics(balancer: &Netns) -> Result<String> {
    balancer.run(&["curl", "-sSf", "http://127.0.0.1:9110/metrics"])?.ok()
}

/// Checks, a reload, tables made anew, metrics.
fn still_works(agent: &mut Agent<'_>, lab: &Lab, balancer: &Netns, config: &str) -> Result<()> {
    agent.says("Metrics at")?;
    agent.comes_to(&listed(&[80]), 5)?;
    agent.says("PING_CHECK on service [192.168.26.155] success.")?;
    agent.says("TCP connection to [192.168.26.155]:tcp:80 success.")?;
    let second = "virtual_server 192.168.26.200 81 {\n lb_algo rr\n lb_kind DR\n protocol TCP\n real_server 192.168.26.155 81 { }\n}\n";
    agent.reload(&format!("{config}{second}"))?;
    agent.comes_to(&listed(&[80, 81]), 5)?;
    let page = metrics(balancer)?;
    ensure!(page.contains("[192.168.26.155]:tcp:81"), "{page}");
    lab.ok("lb-user detach --purge")?;
    agent.reload(config)?;
    agent.comes_to(&listed(&[80]), 5)?;
    // The tables the agent has made are the programs' too.
    lab.ok("lb-user attach eth0")?;
    Ok(())
}

/// By hand under `ip netns exec`, where the BPF file system is hidden; and as systemd starts it.
pub fn the_agent_keeps_what_it_needs() -> Result<()> {
    need::network()?;
    need::programs(&["setpriv", "nsenter"])?;
    let set = net()?;
    let (lab, balancer) = (Lab::at(&set.balancer.netns)?, &set.balancer.netns);
    let config = config("", CHECKS);
    let us = std::process::id().to_string();
    let systemd = ["nsenter", "--target", &us, "--mount", "setpriv", "--bounding-set", AS_THE_UNIT];
    for words in [&["env"][..], &systemd] {
        let mut agent = Agent::new(&lab, balancer, &config)?;
        agent.again_by(words, &["--metrics", "9110"])?;
        still_works(&mut agent, &lab, balancer, &config)?;
        ensure!(all_have_the_same(&agent)? > 1, "the runtime has no thread");
        agent.stop()?;
        lab.ok("lb-user detach --purge")?;
    }
    Ok(())
}

/// A directory everybody may write to, with a script in it that is root's.
fn with_script(text: &str) -> Result<tempfile::TempDir> {
    let files = tempfile::tempdir()?;
    fs::set_permissions(files.path(), Permissions::from_mode(0o1777))?;
    let script = files.path().join("script");
    fs::write(&script, format!("#!/bin/sh\ncd {}\n{text}", files.path().display()))?;
    fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    Ok(files)
}

/// What a script has left once it has run.
fn left_by_script(globals: &str, more: &str, text: &str) -> Result<String> {
    let net = net()?;
    let lab = Lab::at(&net.balancer.netns)?;
    let files = with_script(&format!("{{ {text}; }} > left.$$ 2>&1\nmv -f left.$$ left\n"))?;
    let check = format!("MISC_CHECK {{\n misc_path {}\n {more}\n }}", files.path().join("script").display());
    let _agent = Agent::start(&lab, &net.balancer.netns, &config(globals, &check))?;
    run::until(Duration::from_secs(8), "the script", || fs::read_to_string(files.path().join("left")).ok())
}

pub fn scripts_have_no_rights() -> Result<()> {
    need::network()?;
    need::program("ping")?;
    // keepalived's users have ping in their scripts: its file capability counts, unless the configuration says otherwise.
    let text = "cat /proc/self/status; ping -c 1 -W 1 192.168.26.155 && echo answered";
    for (globals, more, nnp) in [
        ("script_user nobody", "", "0"),
        ("", "user nobody", "0"),
        ("script_user nobody\n script_no_new_privs", "", "1"),
    ] {
        let left = left_by_script(globals, more, text)?;
        let ids = field(&left, "Uid")?.split_whitespace().chain(field(&left, "Gid")?.split_whitespace());
        ensure!(ids.eq(["65534"; 8]) && field(&left, "Groups")?.is_empty(), "{left}");
        for name in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            ensure!(set(&left, name)? == 0, "{name}: {left}");
        }
        ensure!(set(&left, "CapBnd")? & !KEPT == 0, "{left}");
        ensure!(field(&left, "NoNewPrivs")? == nnp, "{left}");
        ensure!(left.contains("answered") == (nnp == "0"), "{left}");
    }
    Ok(())
}

/// Root's have what the agent has: `ip address add` and ipvsadm work in them.
pub fn roots_scripts_have_the_agents() -> Result<()> {
    need::network()?;
    let text = "cat /proc/self/status; ip address add 10.99.8.1/32 dev lo && echo added";
    let left = left_by_script("script_user root", "", text)?;
    ensure!(set(&left, "CapEff")? & !KEPT == 0 && left.contains("added"), "{left}");
    Ok(())
}

/// Whosever it is.
pub fn a_script_that_does_not_end_is_ended() -> Result<()> {
    need::network()?;
    let files = with_script("trap '' TERM\necho $$ > pid\nwhile :; do sleep 0.1; done\n")?;
    let net = net()?;
    let lab = Lab::at(&net.balancer.netns)?;
    let script = files.path().join("script");
    let check = format!("MISC_CHECK {{\n misc_path {}\n misc_timeout 1\n }}", script.display());
    let _agent = Agent::start(&lab, &net.balancer.netns, &config("script_user nobody", &check))?;
    let first = || fs::read_to_string(files.path().join("pid")).ok().filter(|text| text.ends_with('\n'));
    let pid = run::until(Duration::from_secs(5), "the script", first)?;
    let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap_or_default();
    ensure!(field(&status, "Uid")?.starts_with("65534"), "{status}");
    let gone = || (!Path::new(&format!("/proc/{}", pid.trim())).exists()).then_some(());
    run::until(Duration::from_secs(8), "the end of the script", gone)
}

/// One line, and nothing is changed.
pub fn what_cannot_be_given_up() -> Result<()> {
    need::network()?;
    need::program("setpriv")?;
    let set = net()?;
    let lab = Lab::at(&set.balancer.netns)?;
    let mut agent = Agent::new(&lab, &set.balancer.netns, &config("", CHECKS))?;
    agent.again_by(&["setpriv", "--bounding-set", "-setpcap"], &[])?;
    ensure!(agent.ends()?.code() == Some(1));
    let said = agent.log();
    ensure!(
        said.lines().count() == 1 && said.contains("giving up the capability CHOWN, which takes SETPCAP"),
        "{said}"
    );
    ensure!(said.ends_with("Operation not permitted (os error 1)\n"), "{said}");
    lab.lists(&exact(""))
}
