//! The agent with real servers: they die and come back, the configuration changes, the agent is killed.

use anyhow::{Context, Result, ensure};
use lb_tests::agent::Agent;
use lb_tests::lab::Lab;
use lb_tests::listing::{dest, exact};
use lb_tests::peer::{Connection, Content, curl};
use lb_tests::run;
use lb_tests::topo::{self, Plan, Topology};
use lb_tests::{need, pace};
use lb_user::bpf::bpffs;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::{Duration, Instant};

lb_tests::tests! {
    the_keepalived_lab,
    a_reload_changes_only_what_differs,
    a_large_file_makes_room,
    a_thousand_errors_change_nothing,
    a_killed_agent_goes_on_where_it_stopped,
    every_kind_of_check,
    quorum_scripts_and_the_sorry_server,
    what_is_not_the_agents_is_left_alone,
    systemd_is_told,
    checks_pause_while_the_address_is_elsewhere,
    a_drain_waits_and_stands,
    an_address_that_changes_its_kind,
}

/// The lab notes' configuration, placeholders of their template and all.
const LAB: &str = include_str!("../../lb-user/tests/keepalived/lab.conf");

/// Direct routing with two servers and the lab's addresses.
fn lab_net() -> Result<Topology> {
    let plan = Plan::new("192.168.26.200", &["192.168.26.155", "192.168.26.156"])?;
    topo::dr(&plan)
}

fn row(last: u8, weight: u32) -> String {
    dest(format!("192.168.26.{last}:80"), "Route", weight, 0, 0)
}

fn listed(head: &str, rows: &[String]) -> String {
    exact(&format!("{head}\n{}", rows.concat()))
}

const HEAD: &str = "TCP  192.168.26.200:80 rr";

/// 关于Linux中前端负载均衡之VIP(LVS+Keepalived)自动化部署的一些笔记: a server that dies is taken out within the time
/// its check says, and comes back with its next one.
fn the_keepalived_lab() -> Result<()> {
    need::network()?;
    let mut set = lab_net()?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    let vip = set.vip(80)[0];
    let content = Content::new()?;
    let mut agent = Agent::start(&lab, &set.balancer.netns, LAB)?;
    let both = listed(HEAD, &[row(156, 3), row(155, 3)]);
    agent.comes_to(&both, 10)?;
    agent.says("TCP connection to [192.168.26.155]:tcp:80 success.")?;
    agent.says("TCP connection to [192.168.26.156]:tcp:80 success.")?;
    let mut answers = curl::answers(&set.client.netns, vip, 4)?;
    answers.sort();
    ensure!(answers == ["192.168.26.155", "192.168.26.155", "192.168.26.156", "192.168.26.156"]);

    set.servers[0].stop();
    // Up to delay_loop for the first failure, then three more attempts three seconds apart.
    let took = agent.comes_to(&listed(HEAD, &[row(156, 3)]), 25)?;
    ensure!(took > Duration::from_secs(8), "gone after {took:?}, before its attempts were over");
    agent.says("TCP_CHECK on service [192.168.26.155]:tcp:80 failed after 3 retries.")?;
    agent.says("Removing service [192.168.26.155]:tcp:80 from VS [192.168.26.200]:tcp:80")?;
    ensure!(curl::answers(&set.client.netns, vip, 6)? == vec!["192.168.26.156"; 6]);

    set.servers[0].restart(&[80], &content)?;
    agent.comes_to(&listed(HEAD, &[row(155, 3), row(156, 3)]), 8)?;
    agent.says("Adding service [192.168.26.155]:tcp:80 to VS [192.168.26.200]:tcp:80")?;
    curl::answers(&set.client.netns, vip, 6)?;
    // Stopped, it leaves everything as it is.
    agent.stop()?;
    ensure!(curl::answers(&set.client.netns, vip, 6)?.len() == 6);
    Ok(())
}

fn a_reload_changes_only_what_differs() -> Result<()> {
    need::network()?;
    let set = lab_net()?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    let vip = set.vip(80)[0];
    let mut agent = Agent::start(&lab, &set.balancer.netns, LAB)?;
    agent.comes_to(&listed(HEAD, &[row(156, 3), row(155, 3)]), 10)?;
    let mut open = Connection::open(&set.client.netns, vip)?;
    let who = open.who()?;
    let stats = || lab.ok("ipvsadm -Ln --stats");
    let before = stats()?;
    ensure!(before.contains(" 1 "), "{before}");

    agent.reload(LAB)?;
    ensure!(stats()? == before, "reading the same file again changed\n{before}to\n{}", stats()?);

    // Another scheduler and another weight: edited in place.
    let edited = LAB.replace("lb_algo rr", "lb_algo wrr").replacen("weight 3", "weight 5", 1);
    fs::write(agent.path("next.conf"), &edited)?;
    let (state, next) = (agent.path("state.json"), agent.path("next.conf"));
    let diff = lab.ok(&format!("lb-user diff --state {} {}", state.display(), next.display()))?;
    ensure!(
        diff == "ipvsadm -E -t 192.168.26.200:80 -s wrr\n\
                 ipvsadm -e -t 192.168.26.200:80 -r 192.168.26.155:80 -g -w 5\n",
        "{diff}"
    );
    agent.reload(&edited)?;
    let wrr = "TCP  192.168.26.200:80 wrr";
    agent.comes_to(&listed(wrr, &[row(156, 3), row(155, 5)]), 5)?;
    ensure!(open.who()? == who);
    ensure!(!stats()?.contains("200:80                      0"), "counters start anew: {}", stats()?);

    // A broken file changes nothing and says where it is broken.
    agent.reload(&edited.replacen("real_server 192.168.26.155", "real_server 192.168.26.a", 1))?;
    agent.says("keepalived.conf:31: '192.168.26.a' is no IP address")?;
    agent.says("everything stays as it was")?;
    agent.comes_to(&listed(wrr, &[row(156, 3), row(155, 5)]), 1)?;
    ensure!(open.who()? == who);

    // A server less.
    let less = edited.split("real_server 192.168.26.156").next().context("the lab has two servers")?;
    agent.reload(&format!("{less}}}\n"))?;
    agent.comes_to(&listed(wrr, &[row(155, 5)]), 5)?;
    Ok(())
}

/// The rights it has kept are enough to make room for more servers than attach made, and the table of IPv6 connections.
fn a_large_file_makes_room() -> Result<()> {
    const SYS_ADMIN: u32 = 21;
    need::network()?;
    let set = lab_net()?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 --connections 1000")?;
    let mut agent = Agent::start(&lab, &set.balancer.netns, LAB)?;
    agent.comes_to(&listed(HEAD, &[row(156, 3), row(155, 3)]), 10)?;
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()?))?;
    let rights =
        status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no rights are told")?;
    ensure!(u64::from_str_radix(rights.trim(), 16)? >> SYS_ADMIN & 1 == 0, "{rights}");

    let server = |n: u32| format!("real_server 10.99.{}.{} 80 {{\nweight 1\n}}\n", n / 250, n % 250 + 1);
    let servers: String = (0..850).map(server).collect();
    let service = |n: u32| {
        format!(
            "virtual_server 10.8.0.{} 80 {{\nlvs_sched rr\nlvs_method DR\nprotocol TCP\n{servers}}}\n",
            n + 1
        )
    };
    let ipv6 = "virtual_server fd08::1 80 {\nlvs_sched rr\nlvs_method DR\nprotocol TCP\n\
                real_server fd99::9 80 {\nweight 1\n}\n}\n";
    agent.reload(&format!("{LAB}\n{}{ipv6}", (0..10).map(service).collect::<String>()))?;
    let deadline = Instant::now() + pace::limit(Duration::from_secs(30));
    let wanted = 3 + (1 + 2) + 10 * (1 + 850) + 2;
    while lab.ok("ipvsadm -Ln")?.lines().count() != wanted {
        ensure!(Instant::now() < deadline, "{}", agent.log());
        thread::sleep(Duration::from_millis(200));
    }
    let pins = set.balancer.netns.enter(|| bpffs::instance(None))??;
    for made in ["dests-1", "stats-1", "conns6-0"] {
        ensure!(pins.join(made).exists(), "{made} has not been made");
    }
    ensure!(!curl::answers(&set.client.netns, set.vip(80)[0], 4)?.is_empty());
    Ok(())
}

/// All of them are told, by whoever reads the file, and nothing is done.
fn a_thousand_errors_change_nothing() -> Result<()> {
    need::network()?;
    let set = lab_net()?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    let mut agent = Agent::start(&lab, &set.balancer.netns, LAB)?;
    agent.comes_to(&listed(HEAD, &[row(156, 3), row(155, 3)]), 10)?;
    let mut open = Connection::open(&set.client.netns, set.vip(80)[0])?;
    let who = open.who()?;
    let before = lab.ok("ipvsadm -Ln --stats")?;

    // The first services are good ones: they must not come either.
    let fresh = LAB.replace("192.168.26.200 80", "192.168.26.201 80");
    let wrong = |at: usize| format!("virtual_server nowhere{at} 80 {{\n}}\n");
    let broken = fresh + &(0..1000).map(wrong).collect::<String>();
    let all_told = |text: &str| (0..1000).all(|at| text.contains(&format!("'nowhere{at}' is no IP address")));
    fs::write(agent.path("broken.conf"), &broken)?;
    let file = agent.path("broken.conf").display().to_string();
    for (verb, status) in [("check-config", 5), ("diff", 5), ("agent -f", 1)] {
        let said = lab.types(&format!("lb-user {verb} {file}"))?;
        ensure!(said.status == status, "{verb}: {}", said.status);
        ensure!(all_told(&said.stderr), "{verb} does not tell all: {}", said.stderr);
        ensure!(verb != "check-config" || said.stdout.contains("; 1000 errors, "), "{}", said.stdout);
    }
    agent.reload(&broken)?;
    ensure!(all_told(&agent.log()), "{}", agent.log());
    agent.says("1000 error(s), told above")?;
    ensure!(lab.ok("ipvsadm -Ln --stats")? == before, "{}", lab.ok("ipvsadm -Ln --stats")?);
    ensure!(open.who()? == who);

    // The agent that runs goes on by the file it had.
    agent.reload(LAB)?;
    agent.comes_to(&listed(HEAD, &[row(156, 3), row(155, 3)]), 3)?;
    agent.stop()
}

fn a_killed_agent_goes_on_where_it_stopped() -> Result<()> {
    need::network()?;
    let mut set = lab_net()?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    let vip = set.vip(80)[0];
    // Alpha: an agent that had forgotten everything would take all servers out.
    let config = LAB.replace("retry 3", "retry 0").replace("protocol TCP", "protocol TCP\nalpha");
    let mut agent = Agent::start(&lab, &set.balancer.netns, &config)?;
    agent.comes_to(&listed(HEAD, &[]), 3)?;
    agent.comes_to(&listed(HEAD, &[row(156, 3), row(155, 3)]), 8)?;
    set.servers[0].stop();
    let one = listed(HEAD, &[row(156, 3)]);
    agent.comes_to(&one, 10)?;
    let mut open = Connection::open(&set.client.netns, vip)?;
    // What the checks found out is written down within a second.
    thread::sleep(Duration::from_millis(1500));
    agent.kill()?;
    ensure!(open.who()? == "192.168.26.156");
    agent.again(&[])?;
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        agent.comes_to(&one, 0)?;
        ensure!(open.who()? == "192.168.26.156");
    }
    // Two at once are one too many.
    let said = lab.types(&format!(
        "lb-user agent -f {} --state {}",
        agent.path("keepalived.conf").display(),
        agent.path("state.json").display()
    ))?;
    ensure!(said.status == 1 && said.stderr.starts_with("another agent runs"), "{said:?}");
    Ok(())
}

/// A server is taken out gently: what is open stays, what is new goes elsewhere, and the agent leaves it so.
fn a_drain_waits_and_stands() -> Result<()> {
    need::network()?;
    let set = lab_net()?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    let vip = set.vip(80)[0];
    let mut agent = Agent::start(&lab, &set.balancer.netns, LAB)?;
    agent.comes_to(&listed(HEAD, &[row(156, 3), row(155, 3)]), 10)?;
    let mut open = Connection::open(&set.client.netns, vip)?;
    let who = open.who()?;
    let (out, other) = if who.ends_with("155") { (155, 156) } else { (156, 155) };
    let rows = |weight: u32| {
        let weight_of = |last: u8| if last == out { weight } else { 3 };
        listed(HEAD, &[row(156, weight_of(156)), row(155, weight_of(155))])
    };
    let state = agent.path("state.json").display().to_string();
    let drain = |words: &str| lab.types(&format!("lb-user drain --state {state} {words}"));
    let server = format!("192.168.26.{out}");

    let said = drain(&format!("-t 192.168.26.200:80 {server} --wait --timeout 2"))?;
    ensure!(said.status == 1, "one connection is open: {said:?}");
    ensure!(said.stderr == "connections left after 2 s: 1; it stays drained\n", "{said:?}");
    ensure!(said.stdout.contains(&format!("-r {server}:80: 1 active and 0 inactive")), "{said:?}");
    agent.comes_to(&rows(0), 1)?;
    ensure!(open.who()? == who, "an open connection stays where it is");
    for answer in curl::answers(&set.client.netns, vip, 4)? {
        ensure!(answer == format!("192.168.26.{other}"), "{answer} answers while {server} is drained");
    }
    agent.reload(LAB)?;
    agent.kill()?;
    agent.again(&[])?;
    thread::sleep(Duration::from_millis(1500));
    agent.comes_to(&rows(0), 1)?;

    // The end of the connection is the end of the wait.
    lab.ok("ipvsadm --set 0 1 0")?;
    drop(open);
    drain(&format!("{server} --wait --timeout 20"))?.ok()?;
    ensure!(drain("")?.ok()? == format!("-t 192.168.26.200:80 -r {server}:80: had weight 3\n"));
    let said = drain(&format!("--undo {server}"))?.ok()?;
    ensure!(said == format!("-t 192.168.26.200:80 -r {server}:80: weight 3\n"), "{said}");
    agent.comes_to(&rows(3), 2)?;
    thread::sleep(Duration::from_millis(1500));
    agent.comes_to(&rows(3), 1)?;
    ensure!(drain(&format!("--undo {server}"))?.status == 1, "there is nothing to undo");
    Ok(())
}

/// What the routing tables say is asked anew for each change, however long the agent has been running: an address that
/// could be a server's is a net's broadcast address once the balancer is on that net.
fn an_address_that_changes_its_kind() -> Result<()> {
    need::network()?;
    let set = lab_net()?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    let mut agent = Agent::start(&lab, &set.balancer.netns, LAB)?;
    let two = listed(HEAD, &[row(156, 3), row(155, 3)]);
    agent.comes_to(&two, 10)?;
    let third =
        LAB.trim_end().strip_suffix('}').context("the lab's last line closes its service")?.to_owned()
            + " real_server 10.99.9.255 80 {\n weight 3\n }\n}\n";
    let third_row = dest("10.99.9.255:80".to_owned(), "Route", 3, 0, 0);
    agent.reload(&third)?;
    agent.comes_to(&listed(HEAD, &[third_row, row(156, 3), row(155, 3)]), 5)?;
    agent.reload(LAB)?;
    agent.comes_to(&two, 5)?;
    lab.ok("ip address add 10.99.9.1/24 broadcast + dev eth0")?;
    agent.reload(&third)?;
    agent.says("-r 10.99.9.255:80 -g -w 3` error: Invalid operation.")?;
    agent.comes_to(&two, 1)?;
    Ok(())
}

fn every_kind_of_check() -> Result<()> {
    need::network()?;
    let mut set = lab_net()?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    let content = Content::new()?;
    let files = tempfile::tempdir()?;
    let (switch, drain) = (files.path().join("switch"), files.path().join("drain"));
    let config = format!(
        "track_file drain {{\n file {}\n weight 1\n}}
virtual_server 192.168.26.200 80 {{
  delay_loop 1
  lb_algo rr
  lb_kind DR
  protocol TCP
  retry 1
  delay_before_retry 0.2
  connect_timeout 2
  warmup 0
  real_server 192.168.26.155 80 {{
    weight 10
    inhibit_on_failure
    HTTP_GET {{
      url {{ path /
        regex \"^192.168\" }}
    }}
    PING_CHECK {{ }}
    FILE_CHECK {{ track_file drain }}
  }}
  real_server 192.168.26.156 80 {{
    weight 10
    MISC_CHECK {{ misc_path \"/bin/sh -c 'exit $(cat {} || echo 0)'\"
      misc_dynamic }}
  }}
}}\n",
        drain.display(),
        switch.display()
    );
    let mut agent = Agent::start(&lab, &set.balancer.netns, &config)?;
    let now = |first: u32, second: &[u32]| {
        let second = second.iter().map(|weight| row(156, *weight));
        listed(HEAD, &second.chain([row(155, first)]).collect::<Vec<_>>())
    };
    agent.comes_to(&now(10, &[10]), 5)?;
    agent.says("Remote Web server [192.168.26.155]:tcp:80 succeed on service.")?;
    agent.says("PING_CHECK on service [192.168.26.155] success.")?;
    fs::write(&switch, "32")?;
    agent.comes_to(&now(10, &[30]), 5)?;
    fs::write(&drain, "-8")?;
    agent.comes_to(&now(2, &[30]), 5)?;
    agent.says("Changing weight from 10 to 2 for active service [192.168.26.155]:tcp:80")?;
    fs::write(&drain, "0")?;
    fs::write(&switch, "1")?;
    agent.comes_to(&now(10, &[]), 5)?;
    set.servers[0].stop();
    agent.comes_to(&now(0, &[]), 10)?;
    agent.says("Disabling service [192.168.26.155]:tcp:80 of VS [192.168.26.200]:tcp:80")?;
    set.servers[0].restart(&[80], &content)?;
    agent.comes_to(&now(10, &[]), 10)?;
    Ok(())
}

fn quorum_scripts_and_the_sorry_server() -> Result<()> {
    need::network()?;
    let plan = Plan::new("192.168.26.200", &["192.168.26.155", "192.168.26.156", "192.168.26.157"])?;
    let mut set = topo::dr(&plan)?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    let content = Content::new()?;
    let diary = tempfile::tempdir()?;
    let note =
        |what: &str| format!("\"/bin/sh -c 'echo {what} >> {}'\"", diary.path().join("diary").display());
    let server = |last: u8| {
        format!(
            "real_server 192.168.26.{last} 80 {{\n notify_up {}\n notify_down {}\n TCP_CHECK {{ }}\n }}\n",
            note(&format!("{last} up")),
            note(&format!("{last} down"))
        )
    };
    let config = format!(
        "virtual_server 192.168.26.200 80 {{
  delay_loop 1
  lb_algo rr
  lb_kind DR
  protocol TCP
  retry 1
  warmup 0
  quorum 2
  quorum_up {}
  quorum_down {}
  sorry_server 192.168.26.157 80
  {}{}}}\n",
        note("quorum up"),
        note("quorum down"),
        server(155),
        server(156)
    );
    let mut agent = Agent::start(&lab, &set.balancer.netns, &config)?;
    agent.comes_to(&listed(HEAD, &[row(156, 1), row(155, 1)]), 5)?;
    agent.says("Gained quorum 2+0=2 <= 2 for VS [192.168.26.200]:tcp:80")?;
    agent.says("TCP connection to [192.168.26.155]:tcp:80 success.")?;
    set.servers[0].stop();
    agent.comes_to(&listed(HEAD, &[row(157, 1)]), 10)?;
    ensure!(curl::answers(&set.client.netns, set.vip(80)[0], 4)? == vec!["192.168.26.157"; 4]);
    set.servers[0].restart(&[80], &content)?;
    agent.comes_to(&listed(HEAD, &[row(156, 1), row(155, 1)]), 10)?;
    let written = || fs::read_to_string(diary.path().join("diary")).unwrap_or_default();
    let all = || (written().lines().count() >= 5).then_some(());
    run::until(Duration::from_secs(5), "the scripts", all)?;
    let mut lines: Vec<String> = written().lines().map(str::to_owned).collect();
    lines.sort();
    ensure!(lines == ["155 down", "155 up", "quorum down", "quorum up", "quorum up"], "{lines:?}");
    Ok(())
}

fn what_is_not_the_agents_is_left_alone() -> Result<()> {
    need::network()?;
    let set = lab_net()?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.quiet(
        "ipvsadm -A -t 192.168.26.201:80 -s rr
         ipvsadm -a -t 192.168.26.201:80 -r 192.168.26.155:80 -g
         ipvsadm -A -t 192.168.26.200:80 -s rr
         ipvsadm -a -t 192.168.26.200:80 -r 192.168.26.199:80 -g -w 7",
    )?;
    let by_hand = format!("TCP  192.168.26.201:80 rr\n{}", row(155, 1));
    let mut agent = Agent::start(&lab, &set.balancer.netns, LAB)?;
    let with = |rows: &[String]| exact(&format!("{by_hand}{HEAD}\n{}", rows.concat()));
    agent.comes_to(&with(&[row(156, 3), row(155, 3), row(199, 7)]), 10)?;
    agent.stop()?;
    agent.again(&["--purge-on-exit"])?;
    run::until(Duration::from_secs(5), "the agent", || {
        (agent.log().matches("Activating").count() >= 4).then_some(())
    })?;
    thread::sleep(Duration::from_millis(500));
    agent.stop()?;
    agent.comes_to(&with(&[row(199, 7)]), 5)?;
    Ok(())
}

/// Ready once the services are there, alive every second, reloading, and stopping when told to.
fn systemd_is_told() -> Result<()> {
    need::network()?;
    let set = lab_net()?;
    let lab = Lab::at(&set.balancer.netns)?;
    let mut agent = Agent::new(&lab, &set.balancer.netns, LAB)?;
    let socket = UnixDatagram::bind(agent.path("notify"))?;
    socket.set_read_timeout(Some(pace::limit(Duration::from_secs(10))))?;
    let hears = || -> Result<String> {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).context("nothing was said")?;
        Ok(String::from_utf8_lossy(&bytes[..length]).trim_end().to_owned())
    };
    agent.again(&[])?;
    ensure!(hears()? == "READY=1");
    agent.comes_to(&listed(HEAD, &[row(156, 3), row(155, 3)]), 0)?;
    let first = Instant::now();
    ensure!(
        (hears()?, hears()?, hears()?) == ("WATCHDOG=1".into(), "WATCHDOG=1".into(), "WATCHDOG=1".into())
    );
    ensure!(first.elapsed() < pace::limit(Duration::from_secs(6)), "{:?} for three seconds", first.elapsed());
    let next = || std::iter::repeat_with(hears).find(|said| !matches!(said.as_deref(), Ok("WATCHDOG=1")));
    agent.reload(LAB)?;
    let reloading = next().transpose()?.context("nothing was said")?;
    let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").context(reloading.clone())?;
    ensure!(since.parse::<u64>()? > 0);
    ensure!(next().transpose()?.as_deref() == Some("READY=1"));
    agent.stop()?;
    ensure!(next().transpose()?.as_deref() == Some("STOPPING=1"));
    Ok(())
}

/// `ha_suspend`: the director that has not the virtual address checks nobody.
fn checks_pause_while_the_address_is_elsewhere() -> Result<()> {
    need::network()?;
    let plan = Plan::new("192.168.26.200", &["192.168.26.155", "192.168.26.156"])?;
    let mut set = topo::dr_wiring(&plan)?;
    let lab = Lab::at(&set.balancer.netns)?;
    let config = LAB.replace("retry 3", "retry 0").replace("protocol TCP", "protocol TCP\nha_suspend");
    let mut agent = Agent::start(&lab, &set.balancer.netns, &config)?;
    let both = listed(HEAD, &[row(156, 3), row(155, 3)]);
    agent.says("Suspending healthchecker for service [192.168.26.155]:tcp:80")?;
    set.servers[0].stop();
    // Its check would have been due long ago.
    thread::sleep(Duration::from_secs(4));
    agent.comes_to(&both, 0)?;
    set.vip_on_balancer()?;
    agent.comes_to(&listed(HEAD, &[row(156, 3)]), 8)?;
    lab.ok("ip addr del 192.168.26.200/32 dev eth0")?;
    let suspended = || (agent.log().matches("Suspending").count() == 4).then_some(());
    run::until(Duration::from_secs(5), "the checks' pause", suspended)
}
