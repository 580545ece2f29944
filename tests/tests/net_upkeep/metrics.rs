//! The metrics endpoint against what really passed, and against the files that rely on it.

use anyhow::{Context, Result, ensure};
use lb_tests::agent::Agent;
use lb_tests::exposition::Page;
use lb_tests::lab::Lab;
use lb_tests::net::Netns;
use lb_tests::peer::{Connection, curl};
use lb_tests::topo::{self, Plan};
use lb_tests::{need, run};
use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DASHBOARD: &str = include_str!("../../../dist/grafana/lb-user.json");
const RULES: &str = include_str!("../../../dist/prometheus/lb-user.rules.yml");
const DOCS: &str = include_str!("../../../docs/metrics.md");

/// Two servers, checked every second, and a service by mark whose server is not checked.
const CONFIG: &str = "
virtual_server 192.168.26.200 80 {
  delay_loop 1
  lb_algo rr
  lb_kind NAT
  protocol TCP
  retry 0
  warmup 0
  quorum 2
  real_server 10.0.0.11 80 { weight 3
    TCP_CHECK { }
    PING_CHECK { } }
  real_server 10.0.0.12 80 { weight 1
    TCP_CHECK { } }
}
virtual_server fwmark 7 {
  lb_algo wlc
  lb_kind NAT
  real_server 10.0.0.12 80 { weight 2 }
}
";

const VS: (&str, &str) = ("virtual_server", "[192.168.26.200]:tcp:80");
const SERVICE: [(&str, &str); 4] =
    [("family", "ipv4"), ("address", "192.168.26.200"), ("port", "80"), ("protocol", "tcp")];

fn scrape(netns: &Netns) -> Result<Page> {
    let url = "http://127.0.0.1:9110/metrics";
    let text = netns.run(&["curl", "-sSf", "--max-time", "10", url])?.ok()?;
    Page::parse(&text)
}

/// Waits until a value is this.
fn comes_to(netns: &Netns, name: &str, labels: &[(&str, &str)], value: f64) -> Result<()> {
    let mut last = None;
    let arrived = run::until(Duration::from_secs(15), name, || {
        thread::sleep(Duration::from_millis(100));
        last = Some(scrape(netns).and_then(|page| page.value(name, labels)));
        last.as_ref().is_some_and(|last| last.as_ref().is_ok_and(|found| *found == value)).then_some(())
    });
    arrived.with_context(|| format!("{name} {labels:?} should be {value}, is {last:?}"))
}

fn with<'a>(labels: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [labels, more].concat()
}

pub fn metrics_tell_what_happened() -> Result<()> {
    need::network()?;
    let mut set = topo::nat(&Plan::new("192.168.26.200", &["10.0.0.11", "10.0.0.12"])?)?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    lab.ok("lb-user mark add --mark 7 --dst 192.168.26.201 --proto tcp --dport 80")?;
    let netns = &set.balancer.netns;
    let agent = Agent::start_with(&lab, netns, CONFIG, &["--metrics", "9110"])?;
    agent.says("Metrics at http://127.0.0.1:9110/metrics")?;

    let page = scrape(netns)?;
    let value = |name: &str, labels: &[(&str, &str)]| page.value(name, labels);
    ensure!(value("lb_service_connections_total", &SERVICE)? == 0.0);
    ensure!(value("lb_service_info", &[("fwmark", "7"), ("scheduler", "wlc")])? == 1.0);
    ensure!(value("lb_services", &[])? == 2.0 && value("lb_dests", &[])? == 3.0);
    ensure!(value("lb_virtual_server_quorum", &[VS])? == 2.0);
    ensure!(value("lb_virtual_server_alive_weight", &[VS])? == 4.0);
    ensure!(value("lb_interface_up", &[("interface", "eth0")])? == 1.0);
    ensure!(value("lb_interface_info", &[("interface", "eth1")])? == 1.0);
    ensure!(value("lb_connection_slots", &[("family", "ipv6")])? > 0.0);
    let layout = lb_common::tables::LAYOUT.to_string();
    ensure!(value("lb_build_info", &[("version", env!("CARGO_PKG_VERSION")), ("layout", &layout)])? == 1.0);

    // Six connections, one of them still open, and the same figures as the listing's.
    curl::answers(&set.client.netns, set.vip(80)[0], 5)?;
    let mut open = Connection::open(&set.client.netns, set.vip(80)[0])?;
    let who = open.who()?;
    comes_to(netns, "lb_service_connections_total", &SERVICE, 6.0)?;
    thread::sleep(Duration::from_millis(500));
    let page = scrape(netns)?;
    let listed = lab.ok("ipvsadm -Ln --stats --exact")?;
    let rows = listed.lines().filter(|line| line.contains("->") && line.contains("10.0.0."));
    let mut dests = 0;
    for row in rows.take(2) {
        let words: Vec<&str> = row.split_whitespace().collect();
        let address = words[1].trim_end_matches(":80");
        let dest = with(&SERVICE, &[("dest_address", address), ("dest_port", "80"), ("method", "Masq")]);
        let (inward, outward) = (with(&dest, &[("direction", "in")]), with(&dest, &[("direction", "out")]));
        for (name, labels, shown) in [
            ("lb_dest_connections_total", &dest, words[2]),
            ("lb_dest_packets_total", &inward, words[3]),
            ("lb_dest_packets_total", &outward, words[4]),
            ("lb_dest_bytes_total", &inward, words[5]),
            ("lb_dest_bytes_total", &outward, words[6]),
        ] {
            ensure!(page.value(name, labels)? == shown.parse::<f64>()?, "{name}, listed: {row}");
        }
        let active = page.value("lb_dest_active_connections", &dest)?;
        ensure!(active == if address == who { 1.0 } else { 0.0 }, "{address}: {active} active");
        ensure!(page.value("lb_dest_inactive_connections", &dest)? > 0.0);
        dests += 1;
    }
    ensure!(dests == 2, "{listed}");
    // Counted by the sweep, once a second.
    comes_to(netns, "lb_connections", &[("family", "ipv4")], 6.0)?;
    ensure!(page.value("lb_packets_total", &[("reason", "forwarded"), ("action", "send")])? >= 24.0);

    // A server goes, and the quorum with it: of weights 3 and 1, one alone is 1.
    set.servers[0].stop();
    let rs = [VS, ("real_server", "[10.0.0.11]:tcp:80")];
    comes_to(netns, "lb_real_server_up", &rs, 0.0)?;
    let page = scrape(netns)?;
    let (tcp, ping) = (with(&rs, &[("check", "TCP_CHECK")]), with(&rs, &[("check", "PING_CHECK")]));
    ensure!(page.value("lb_check_up", &tcp)? == 0.0 && page.value("lb_check_up", &ping)? == 1.0);
    ensure!(page.value("lb_check_attempts_total", &with(&tcp, &[("result", "pass")]))? >= 1.0);
    ensure!(page.value("lb_check_attempts_total", &with(&tcp, &[("result", "fail")]))? >= 1.0);
    ensure!(page.value("lb_check_attempts_total", &with(&ping, &[("result", "fail")]))? == 0.0);
    let took = page.value("lb_check_last_duration_seconds", &tcp)?;
    ensure!(took > 0.0 && took < 5.0, "a refused connection in {took} s");
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let age = now - page.value("lb_check_last_attempt_timestamp_seconds", &tcp)?;
    ensure!((-0.1..3.0).contains(&age), "the last attempt of a check made every second is {age} s ago");
    let attempts = page.value("lb_check_duration_seconds_count", &[("check", "TCP_CHECK")])?;
    ensure!(attempts >= 2.0, "{attempts}");
    ensure!(page.value("lb_virtual_server_alive_weight", &[VS])? == 1.0);
    ensure!(page.value("lb_virtual_server_quorum_up", &[VS])? == 0.0);

    ensure!(page.value("lb_agent_config_last_reload_successful", &[])? == 1.0);
    agent.reload("virtual_server { }\n")?;
    ensure!(scrape(netns)?.value("lb_agent_config_last_reload_successful", &[])? == 0.0);
    agent.reload(CONFIG)?;
    ensure!(scrape(netns)?.value("lb_agent_config_last_reload_successful", &[])? == 1.0);
    what_relies_on_them(&page)
}

/// The dashboard and the rules ask for nothing that is not there, and the documentation names exactly what is.
fn what_relies_on_them(page: &Page) -> Result<()> {
    let series: BTreeSet<String> = page.series.keys().map(|(name, _)| name.clone()).collect();
    let families: BTreeSet<String> = page.families.iter().map(|(name, _)| name.clone()).collect();
    for (what, text) in [("the dashboard", DASHBOARD), ("the rules", RULES)] {
        let used = named(text);
        ensure!(used.len() > 5, "{what} name only {used:?}");
        let lacking: Vec<_> =
            used.iter().filter(|name| !series.contains(*name) && !families.contains(*name)).collect();
        ensure!(lacking.is_empty(), "{what} need {lacking:?}");
    }
    serde_json::from_str::<serde_json::Value>(DASHBOARD).context("the dashboard")?;
    let documented = named(DOCS);
    ensure!(documented == families, "documented {documented:?}, there {families:?}");
    Ok(())
}

/// Names of metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("lb_")).map(str::to_owned).collect()
}

/// Given a port alone; and nothing but scrapes is answered.
pub fn metrics_are_for_this_machine_only() -> Result<()> {
    need::network()?;
    let set = topo::dr(&Plan::new("192.168.26.200", &["192.168.26.155"])?)?;
    let lab = Lab::at(&set.balancer.netns)?;
    let netns = &set.balancer.netns;
    let mut agent = Agent::start_with(&lab, netns, "", &["--metrics", "9110"])?;
    agent.says("Metrics at")?;
    // Before anything is attached there is little to tell, but that there is.
    ensure!(scrape(netns)?.value("lb_services", &[])? == 0.0);
    let ask = |netns: &Netns, words: &str| -> Result<String> {
        let line = format!("curl -s --max-time 5 -o /dev/null -w %{{http_code}} {words}");
        Ok(netns.run(&line.split(' ').collect::<Vec<_>>())?.stdout)
    };
    let outside = format!("http://{}:9110/metrics", set.balancer.address.v4);
    ensure!(ask(&set.client.netns, &outside)? == "000");
    ensure!(ask(netns, "http://127.0.0.1:9110/")? == "404");
    ensure!(ask(netns, "-X POST http://127.0.0.1:9110/metrics")? == "405");
    ensure!(ask(netns, "-I http://127.0.0.1:9110/metrics")? == "200");
    let said = lab.types(&format!(
        "lb-user agent -f {} --state {} --metrics 9110",
        agent.path("keepalived.conf").display(),
        agent.path("other.json").display()
    ))?;
    ensure!(
        said.status == 1 && said.stderr.contains("metrics cannot be served at 127.0.0.1:9110"),
        "{said:?}"
    );
    agent.stop()?;
    // Asked for, it is there for others.
    agent.again(&["--metrics", "0.0.0.0:9110"])?;
    agent.says("Metrics at http://0.0.0.0:9110/metrics")?;
    ensure!(ask(&set.client.netns, &outside)? == "200");
    Ok(())
}
