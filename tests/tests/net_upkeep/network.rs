//! The network changes under traffic, and the agent follows: link addresses, gateways, NICs, neighbours that are dead.

use anyhow::{Context, Result, bail, ensure};
use lb_tests::agent::Agent;
use lb_tests::lab::Lab;
use lb_tests::net::Netns;
use lb_tests::topo::{self, Dual, Host, Plan};
use lb_tests::{need, pace, run};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// From the change to the first answer.
const LIMIT: Duration = Duration::from_secs(1);

/// One new connection's answer; nothing if there is none at once.
fn answer(client: &Netns, at: SocketAddr) -> Option<String> {
    let patience = Duration::from_millis(150);
    let asked = client.enter(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&at, patience)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    let text = asked.ok()?.ok()?;
    text.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_owned())
}

/// Makes a change, and asks for new connections until there is an answer: within a second.
fn answers_after(
    client: &Netns,
    at: SocketAddr,
    what: &str,
    change: impl FnOnce() -> Result<()>,
) -> Result<()> {
    answer(client, at).with_context(|| format!("no answer even before {what}"))?;
    change()?;
    let since = Instant::now();
    while answer(client, at).is_none() {
        if since.elapsed() > pace::limit(LIMIT) {
            bail!("{what}: no answer within {LIMIT:?}");
        }
    }
    println!("{what}: answers after {:?}", since.elapsed());
    Ok(())
}

pub fn a_server_gets_another_link_address() -> Result<()> {
    need::network()?;
    let set = topo::dr(&Plan::new("192.168.26.200", &["192.168.26.155"])?)?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    let [v4, v6] = set.vip(80);
    for (vip, server) in
        [(v4, set.servers[0].address.v4.to_string()), (v6, format!("[{}]", set.servers[0].address.v6))]
    {
        lab.ok(&format!("ipvsadm -A -t {vip} -s rr"))?;
        lab.ok(&format!("ipvsadm -a -t {vip} -r {server}:80 -g"))?;
    }
    let _agent = Agent::start(&lab, &set.balancer.netns, "")?;
    let server = &set.servers[0].netns;
    // It says so itself, as hosts do whose card is replaced.
    server.sysctl("net.ipv4.conf.eth0.arp_notify", "1")?;
    server.sysctl("net.ipv6.conf.eth0.ndisc_notify", "1")?;
    let address = |last: u8| server.ip(&format!("link set eth0 address 02:00:5e:00:53:{last:02x}"));
    answers_after(&set.client.netns, v4, "another link address, IPv4", || address(1))?;
    answers_after(&set.client.netns, v6, "another link address, IPv6", || address(2))
}

/// How many packets a card has sent.
fn sent(netns: &Netns, nic: &str) -> Result<u64> {
    let file = format!("/sys/class/net/{nic}/statistics/tx_packets");
    Ok(netns.run(&["cat", &file])?.ok()?.trim().parse()?)
}

/// Tunnels to servers that two routers and a card of the balancer's own lead to: the card goes down, the gateway changes,
/// the card comes up again.
pub fn ways_to_servers_come_and_go() -> Result<()> {
    need::network()?;
    let plan = Plan::new("10.0.9.1", &["10.0.0.11"])?;
    let set = topo::tun(&plan)?;
    let balancer = &set.balancer;
    let [front, back] = set.switches() else { bail!("a tunnel set-up has two segments") };
    let second = Host::new("router2", front, "eth0", Dual::on(1, Plan::in_front(253)))?;
    second.plug(back, "eth1", Dual::on(2, plan.behind(253)))?;
    second.forward()?;
    balancer.plug(back, "eth1", Dual::on(2, plan.behind(2)))?;
    let lab = Lab::at(&balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    let vip = set.vip(80)[0];
    lab.ok(&format!("ipvsadm -A -t {vip} -s rr"))?;
    lab.ok(&format!("ipvsadm -a -t {vip} -r 10.0.0.11 -i"))?;
    let _agent = Agent::start(&lab, &balancer.netns, "")?;
    let client = &set.client.netns;
    answers_after(client, vip, "the first gateway", || balancer.netns.ip("link set eth1 down"))?;
    // From here on both gateways would do: which one it is shows by whose packets there are more of.
    // Nothing where there was no answer: the change may take its second.
    let goes_by_second = || -> Result<Option<bool>> {
        let before = sent(&second.netns, "eth1")?;
        let answered = answer(client, vip).is_some();
        let after = sent(&second.netns, "eth1")?;
        Ok(answered.then_some(after >= before + 3))
    };
    let comes = |wanted: bool, what: &str| -> Result<()> {
        let since = Instant::now();
        while goes_by_second()? != Some(wanted) {
            ensure!(since.elapsed() < pace::limit(LIMIT), "{what}: not within {LIMIT:?}");
        }
        println!("{what}: taken after {:?}", since.elapsed());
        Ok(())
    };
    ensure!(goes_by_second()? != Some(true), "the second gateway is used before it is one");
    balancer.netns.ip(&format!("route replace default via {}", second.address.v4))?;
    comes(true, "the second gateway")?;
    balancer.netns.ip("link set eth1 up")?;
    comes(false, "the card again")
}

/// Under address translation answers go to clients without the kernel's stack, which alone asks for link addresses. Here
/// nobody tells the balancer the client's: the client knows the balancer's for good, and has no reason to ask.
pub fn a_client_nobody_knows_gets_answers() -> Result<()> {
    need::network()?;
    let set = topo::nat(&Plan::new("192.168.26.200", &["192.168.27.155"])?)?;
    let (balancer, client) = (&set.balancer.netns, &set.client.netns);
    let lab = Lab::at(balancer)?;
    lab.ok("lb-user attach eth0 eth1")?;
    let link = balancer.run(&["cat", "/sys/class/net/eth0/address"])?.ok()?;
    for (nth, vip) in set.vip(80).into_iter().enumerate() {
        let server = set.servers[0].address.with_port(80)[nth];
        lab.ok(&format!("ipvsadm -A -t {vip} -s rr\nipvsadm -a -t {vip} -r {server} -m"))?;
        answer(client, vip).context("an answer to begin with")?;
        let gateway = set.balancer.address.both()[nth];
        client.ip(&format!("neighbour replace {gateway} lladdr {} dev eth0 nud permanent", link.trim()))?;
    }
    let forget = || {
        let of = |family| balancer.run(&["ip", family, "neighbour", "flush", "dev", "eth0"])?.ok().map(drop);
        ["-4", "-6"].into_iter().try_for_each(of)?;
        // The packet path asks the kernel once a second.
        thread::sleep(Duration::from_millis(1500));
        Ok::<_, anyhow::Error>(())
    };
    forget()?;
    for vip in set.vip(80) {
        ensure!(answer(client, vip).is_none(), "{vip} answers with nobody's help");
    }
    ensure!(lab.ok("lb-user status")?.contains("no-neighbour"), "answers were lost for another reason");
    let _agent = Agent::start(&lab, balancer, "")?;
    for vip in set.vip(80) {
        answers_after_nothing(client, vip)?;
        forget()?;
        answers_after_nothing(client, vip)?;
    }
    Ok(())
}

/// Asks for new connections until there is an answer.
fn answers_after_nothing(client: &Netns, at: SocketAddr) -> Result<()> {
    let answered = || answer(client, at).map(drop);
    run::until(Duration::from_secs(10), &format!("an answer of {at}"), answered)
}

pub fn a_dead_neighbour_is_shown() -> Result<()> {
    need::network()?;
    let set = topo::dr(&Plan::new("192.168.26.200", &["192.168.26.155"])?)?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0")?;
    lab.ok("ipvsadm -A -t 192.168.26.200:80 -s rr")?;
    lab.ok("ipvsadm -a -t 192.168.26.200:80 -r 192.168.26.155 -g")?;
    let quiet = |text: &str| !text.contains("does not answer");
    ensure!(quiet(&lab.ok("lb-user status")?));
    lab.ok("ipvsadm -a -t 192.168.26.200:80 -r 192.168.26.199 -g")?;
    let line = "Neighbour 192.168.26.199 on eth0 does not answer: 1 dests behind it\n";
    let shown = || lab.ok("lb-user status").is_ok_and(|text| text.contains(line)).then_some(());
    run::until(Duration::from_secs(5), line, shown)?;
    let json = lab.ok("lb-user status --json")?;
    let json: serde_json::Value = serde_json::from_str(&json)?;
    let dead = &json["dead_neighbours"];
    ensure!(dead[0]["address"] == "192.168.26.199" && dead[0]["dests"] == 1, "{dead}");
    let agent = Agent::start_with(&lab, &set.balancer.netns, "", &["--metrics", "9110"])?;
    agent.says("Metrics at")?;
    let page = set.balancer.netns.run(&["curl", "-sSf", "http://127.0.0.1:9110/metrics"])?.ok()?;
    let series = "lb_dead_neighbour_dests{address=\"192.168.26.199\",interface=\"eth0\"} 1\n";
    ensure!(page.contains(series), "{page}");
    // It comes: the kernel has kept asking.
    set.servers[0].netns.ip("addr add 192.168.26.199/24 dev eth0")?;
    let gone = || lab.ok("lb-user status").is_ok_and(|text| quiet(&text)).then_some(());
    run::until(Duration::from_secs(20), "the neighbour's return", gone)
}
