//! Who reads the log: the journal, and programs.

use anyhow::{Context, Result, ensure};
use lb_tests::agent::Agent;
use lb_tests::lab::Lab;
use lb_tests::topo::{self, Plan, Topology};
use lb_tests::{need, run};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

/// Two servers, every failed attempt told.
const CONFIG: &str = "
virtual_server 192.168.26.200 80 {
  delay_loop 1
  lb_algo rr
  lb_kind DR
  protocol TCP
  retry 1
  delay_before_retry 0.2
  warmup 0
  real_server 192.168.26.155 80 { TCP_CHECK { log_all_failures } }
  real_server 192.168.26.156 80 { TCP_CHECK { } }
}
";

fn net() -> Result<Topology> {
    topo::dr(&Plan::new("192.168.26.200", &["192.168.26.155", "192.168.26.156"])?)
}

/// keepalived's lines with sd-daemon's priorities, and without the time, which the journal has.
pub fn the_journal_gets_priorities() -> Result<()> {
    need::network()?;
    let mut set = net()?;
    let lab = Lab::at(&set.balancer.netns)?;
    let mut agent = Agent::new(&lab, &set.balancer.netns, CONFIG)?;
    let log = File::create(agent.path("log"))?.metadata()?;
    let stream = format!("{}:{}", log.dev(), log.ino());
    agent.again_in(&[], &[("JOURNAL_STREAM", &stream)])?;
    agent.says("<6>TCP connection to [192.168.26.155]:tcp:80 success.\n")?;
    set.servers[0].stop();
    agent.says("<6>TCP connection to [192.168.26.155]:tcp:80 failed. (attempt 1: ")?;
    agent.says("<6>TCP_CHECK on service [192.168.26.155]:tcp:80 failed after 1 retries.")?;
    agent.says("<6>Removing service [192.168.26.155]:tcp:80 from VS [192.168.26.200]:tcp:80\n")?;
    agent.reload(&CONFIG.replace("lb_kind DR", "lb_kind XX"))?;
    agent.says("<3>")?;
    // The same check goes on, and says less; or more.
    let attempts = |agent: &Agent<'_>| agent.log().matches("156]:tcp:80 failed. (attempt ").count();
    agent.reload(&CONFIG.replace("156 80 { TCP_CHECK { }", "156 80 { TCP_CHECK { log_all_failures }"))?;
    set.servers[1].stop();
    agent.says("<6>TCP connection to [192.168.26.156]:tcp:80 failed. (attempt 1: ")?;
    agent.says("<6>TCP_CHECK on service [192.168.26.156]:tcp:80 failed after 1 retries.")?;
    run::until(Duration::from_secs(5), "one attempt more", || (attempts(&agent) > 1).then_some(()))?;
    agent.reload(CONFIG)?;
    thread::sleep(Duration::from_millis(200));
    let told = attempts(&agent);
    thread::sleep(Duration::from_millis(3000));
    ensure!(attempts(&agent) == told, "every failure is still told: {}", agent.log());
    let less = CONFIG.replace("  real_server 192.168.26.156 80 { TCP_CHECK { } }\n", "");
    agent.reload(&less)?;
    agent.says("<6>service [192.168.26.156]:tcp:80 no longer exist\n")?;
    agent.reload("")?;
    agent.says("<6>Removing Virtual Server [192.168.26.200]:tcp:80\n")?;
    let said = agent.log();
    ensure!(said.lines().all(|line| line.starts_with('<')), "{said}");
    ensure!(!said.contains("\n<6>20"), "the time stands twice: {said}");
    // Another stream than the journal's: nobody would take the priorities away again.
    agent.stop()?;
    fs::write(agent.path("log"), "")?;
    fs::write(agent.path("keepalived.conf"), CONFIG)?;
    agent.again_in(&[], &[("JOURNAL_STREAM", "1:1")])?;
    agent.says("INFO")?;
    ensure!(!agent.log().contains("<6>"), "{}", agent.log());
    Ok(())
}

pub fn objects_say_what_they_are_about() -> Result<()> {
    need::network()?;
    let mut set = net()?;
    let lab = Lab::at(&set.balancer.netns)?;
    let agent = Agent::start_with(&lab, &set.balancer.netns, CONFIG, &["--log-format", "json"])?;
    agent.says("[192.168.26.155]:tcp:80 success.")?;
    set.servers[0].stop();
    agent.says("Removing service")?;
    agent.reload("virtual_server {\n")?;
    let lines: Vec<Value> = agent
        .log()
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .with_context(|| agent.log())?;
    let find = |message: &str| {
        let found =
            lines.iter().find(|line| line["message"].as_str().is_some_and(|m| m.starts_with(message)));
        found.with_context(|| format!("no `{message}` in {lines:?}"))
    };
    let removed = find("Removing service [192.168.26.155]:tcp:80 from VS [192.168.26.200]:tcp:80")?;
    ensure!(removed["virtual_server"] == "[192.168.26.200]:tcp:80", "{removed}");
    ensure!(removed["real_server"] == "[192.168.26.155]:tcp:80" && removed["level"] == "INFO", "{removed}");
    let gained = find("Gained quorum")?;
    ensure!(gained["real_server"].is_null() && gained["timestamp"].is_string(), "{gained}");
    let failed = find("TCP_CHECK on service")?;
    ensure!(failed["check"] == "TCP_CHECK" && failed["result"] == "fail", "{failed}");
    ensure!(failed["target"] == "[192.168.26.155]:tcp:80", "{failed}");
    let attempt = find("TCP connection to [192.168.26.155]:tcp:80 failed.")?;
    ensure!(attempt["attempt"] == 1, "{attempt}");
    let wrong = lines.iter().find(|line| line["level"] == "ERROR").context("no error is told")?;
    ensure!(wrong["place"].as_str().is_some_and(|place| place.ends_with("keepalived.conf:1")), "{wrong}");
    Ok(())
}
