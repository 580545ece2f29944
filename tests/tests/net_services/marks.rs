//! Services by mark, and the rules that mark.

use anyhow::{Result, ensure};
use lb_tests::drive;
use lb_tests::lab::Lab;
use lb_tests::listing::{TITLE, dest};
use lb_tests::need;
use lb_tests::net::Netns;
use lb_tests::peer::{Connection, curl};
use lb_tests::topo::{self, Plan, Topology};
use std::fs;
use std::net::SocketAddr;

const PLAN: (&str, [&str; 2]) = ("10.211.55.8", ["10.211.55.69", "10.211.55.70"]);
const SERVERS: [&str; 2] = PLAN.1;

fn plan() -> Result<Plan> {
    Plan::new(PLAN.0, &PLAN.1)
}

/// The commands that balance a mark over a set-up's servers by NAT, and the rows that list it.
fn by_mark(set: &Topology, mark: u32, family: usize, more: &str) -> (String, String) {
    let option = ["", " -6"][family];
    let mut commands = format!("ipvsadm -A -f {mark}{option} -s rr{more}\n");
    let mut rows = format!("FWM  {mark} {}rr{}\n", ["", "IPv6 "][family], more.replace(" -p", " persistent"));
    for server in &set.servers {
        let at = server.address.with_port(80)[family];
        commands += &format!("ipvsadm -a -f {mark}{option} -r {at} -m\n");
        rows += &dest(at, "Masq", 1, 0, 0);
    }
    (commands, rows)
}

fn newest_first() -> Vec<String> {
    SERVERS.iter().rev().map(ToString::to_string).collect()
}

pub fn marked_requests_are_balanced() -> Result<()> {
    need::network()?;
    let set = topo::nat(&plan()?)?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    for (family, vip) in set.vip(80).into_iter().enumerate() {
        let (commands, rows) = by_mark(&set, 7, family, "");
        lab.quiet(&commands)?;
        lab.lists(&format!("{TITLE}{rows}"))?;
        lab.quiet(&format!("lb-user mark add --mark 7 --dst {} --proto tcp --dport 80", vip.ip()))?;
        drive::answers_in_turn(&set, vip, &newest_first(), 20)?;
        // A service of the mark comes before one of the address.
        lab.quiet(&format!("ipvsadm -A -t {vip} -s rr"))?;
        drive::answers_in_turn(&set, vip, &newest_first(), 6)?;
        lab.quiet(&format!(
            "ipvsadm -D -t {vip}\nlb-user mark del --mark 7 --dst {} --proto tcp --dport 80",
            vip.ip()
        ))?;
        ensure!(curl::answers(&set.client.netns, vip, 1).is_err(), "{vip} answers without a rule");
        lab.quiet("ipvsadm -C")?;
    }
    Ok(())
}

pub fn one_mark_for_several_ports_keeps_a_client_together() -> Result<()> {
    need::network()?;
    let set = topo::nat(&Plan { ports: vec![80, 8080], ..plan()? })?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    let [vip, _] = set.vip(80);
    let other = SocketAddr::new(vip.ip(), 8080);
    let (commands, _) = by_mark(&set, 1, 0, " -p 60");
    lab.quiet(&commands)?;
    // A net this wide makes every address worth a look.
    lab.quiet(&format!("lb-user mark add --mark 1 --dst {}/8 --dport 80-8080", vip.ip()))?;
    let once = curl::answers(&set.client.netns, vip, 4)?;
    ensure!(once.windows(2).all(|pair| pair[0] == pair[1]), "{once:?}");
    ensure!(curl::answers(&set.client.netns, other, 4)? == once);
    let conns = lab.ok("ipvsadm -Lnc")?;
    let template = format!("NONE        {}:0 0.0.0.1:0 {}:0", set.client.address.v4, once[0]);
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let wanted = squeezed(&template.replace("NONE", ""));
    let found = conns.lines().map(squeezed).any(|line| line.starts_with("IP ") && line.ends_with(&wanted));
    ensure!(found, "no template `{wanted}` in\n{conns}");
    Ok(())
}

pub fn connections_outlive_their_rule() -> Result<()> {
    need::network()?;
    let set = topo::nat(&plan()?)?;
    let lab = Lab::at(&set.balancer.netns)?;
    lab.ok("lb-user attach eth0 eth1")?;
    let [vip, _] = set.vip(80);
    lab.quiet(&by_mark(&set, 1, 0, "").0)?;
    lab.quiet(&format!("lb-user mark add --mark 1 --dst {}", vip.ip()))?;
    let mut kept = Connection::open(&set.client.netns, vip)?;
    let who = kept.who()?;
    lab.quiet(&format!("lb-user mark del --mark 1 --dst {}", vip.ip()))?;
    ensure!(kept.who()? == who);
    // Nor does another change make it forget them.
    lab.quiet("ipvsadm -A -f 2 -s rr")?;
    ensure!(kept.who()? == who);
    Ok(())
}

pub fn rules_of_a_packet_filter() -> Result<()> {
    need::root()?;
    let host = Netns::new("host")?;
    let lab = Lab::at(&host)?;
    let file = lab.programs().join("saved");
    fs::write(
        &file,
        "*mangle\n-A PREROUTING -d 10.0.0.1/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x1/0xffffffff\n\
         -A PREROUTING -i eth0 -j MARK --set-xmark 0x5/0xffffffff\nCOMMIT\n",
    )?;
    let said = lab.types(&format!("lb-user mark import {}", file.display()))?;
    let rule = "--mark 1 --dst 10.0.0.1 --proto tcp --dport 80\n";
    ensure!(said.status == 0 && said.stdout == rule, "{said:?}");
    let refused =
        "not taken: line 3: `-i` cannot be had: -A PREROUTING -i eth0 -j MARK --set-xmark 0x5/0xffffffff\n";
    ensure!(said.stderr == refused, "{said:?}");
    ensure!(lab.ok("lb-user mark list")? == rule);
    let again = lab.types("lb-user mark add --mark 2 --dst 10.0.0.1 --proto tcp --dport 80")?;
    ensure!(again.status == 1 && again.stderr.contains("already"), "{again:?}");
    let missing = lab.types("lb-user mark del --mark 2 --dst 10.0.0.1")?;
    ensure!(missing.status == 1 && missing.stderr.contains("there is no rule"), "{missing:?}");
    ensure!(lab.ok("lb-user mark list")? == rule);
    let json = lab.ok("lb-user mark list --json")?;
    ensure!(json.contains("\"dst\": \"10.0.0.1\""), "{json}");
    Ok(())
}

pub fn everything_is_saved_and_restored() -> Result<()> {
    need::root()?;
    let host = Netns::new("host")?;
    let lab = Lab::at(&host)?;
    lab.quiet(
        "lb-user mark add --mark 9 --dst 10.0.0.1 --proto udp --dport 53
        lb-user mark add --mark 8 --dst 10.0.0.0/24 --src 10.9.0.0/16
        ipvsadm -A -f 9 -s rr
        ipvsadm -a -f 9 -r 10.1.0.1 -m -w 2
        ipvsadm -A -t 10.0.0.2:80 -s wlc
        ipvsadm -a -t 10.0.0.2:80 -r 10.1.0.1:80 -m -x 9 -y 3
        ipvsadm --set 100 0 0",
    )?;
    lab.ok("lb-user sysctl conn_reuse_mode=0 sync_threshold='4 60'")?;
    let saved = lab.ok("lb-user save -n")?;
    let expected = "sysctl conn_reuse_mode=0
sysctl sync_threshold=4 60
--set 100 120 300
mark --mark 9 --dst 10.0.0.1 --proto udp --dport 53
mark --mark 8 --dst 10.0.0.0/24 --src 10.9.0.0/16
-A -t 10.0.0.2:80 -s wlc
-a -t 10.0.0.2:80 -r 10.1.0.1:80 -m -w 1 -x 9 -y 3
-A -f 9 -s rr
-a -f 9 -r 10.1.0.1:0 -m -w 2
";
    ensure!(saved == expected, "{saved}");
    let file = lab.programs().join("rules");
    fs::write(&file, &saved)?;
    lab.quiet("lb-user detach --purge\nlb-user mark add --mark 1 --dst 10.0.0.3")?;
    lab.ok(&format!("lb-user restore {}", file.display()))?;
    ensure!(lab.ok("lb-user save -n")? == saved);
    // A wrong line changes nothing.
    fs::write(&file, "-A -t 10.0.0.5:80\nmark --mark 0 --dst 10.0.0.1\n")?;
    let wrong = lab.types(&format!("lb-user restore {}", file.display()))?;
    ensure!(
        wrong.status == 1 && wrong.stderr.starts_with("line 2: ") && wrong.stderr.lines().count() == 1,
        "{wrong:?}"
    );
    ensure!(lab.ok("lb-user save -n")? == saved);
    // ipvsadm's own text has no other lines.
    ensure!(!lab.ok("ipvsadm-save -n")?.contains("mark"));
    Ok(())
}
