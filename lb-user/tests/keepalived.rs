//! keepalived's configurations as they are found in the wild, and what is said about wrong ones.

#![allow(clippy::unwrap_used, reason = "a failing test should say so where it happens")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lb_user::agent::config::model::{Check, Config, OnDown, Probe, RealServer, VirtualServer, dest_of};
use lb_user::agent::config::problem::{Problems, Severity};
use lb_user::agent::config::{Loaded, load};
use lb_user::control::model::{Method, Netmask, Port, Proto, ServiceId, TunType};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keepalived").join(name)
}

/// One of which nothing is wrong.
fn good(name: &str) -> Config {
    let Loaded { config, problems } = load(&path(name), "host1");
    assert_eq!(problems.status(), 0, "{:#?}", problems.iter().collect::<Vec<_>>());
    config
}

fn only(config: &Config) -> &VirtualServer {
    assert_eq!(config.servers.len(), 1);
    &config.servers[0]
}

fn check(server: &RealServer) -> &Check {
    assert_eq!(server.checks.len(), 1);
    &server.checks[0]
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A text as a file, and what is said about it.
fn said(text: &str) -> (Config, Problems) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("k.conf");
    std::fs::write(&file, text).unwrap();
    let Loaded { config, problems } = load(&file, "host1");
    (config, problems)
}

/// The lab notes' template as it stands, placeholders and all.
#[test]
fn the_lab() {
    let config = good("lab.conf");
    let server = only(&config);
    assert_eq!(server.name, "[192.168.26.200]:tcp:80");
    assert_eq!(server.ask.scheduler, "rr");
    let servers: Vec<_> =
        server.servers.iter().map(|rs| (rs.name.as_str(), rs.conf.weight, rs.conf.method)).collect();
    assert_eq!(
        servers,
        [("[192.168.26.155]:tcp:80", 3, Method::Route), ("[192.168.26.156]:tcp:80", 3, Method::Route)]
    );
    let Check { spec, .. } = check(&server.servers[0]);
    assert_eq!(
        (spec.pace.delay_loop, spec.pace.retry, spec.pace.delay_before_retry),
        (seconds(1.), 3, seconds(3.))
    );
    let Probe::Tcp(target) = &spec.probe else { panic!("{spec:?}") };
    assert_eq!((target.to.to_string(), target.timeout), ("192.168.26.155:80".to_owned(), seconds(3.)));
}

#[test]
fn inheritance_and_defaults() {
    let config = good("dr.conf");
    let [first, second, third] = &only(&config).servers[..] else { panic!() };
    let target = |server: &RealServer| match &check(server).spec.probe {
        Probe::Tcp(target) => target.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(check(first).spec.pace.retry, 2);
    assert_eq!(check(first).spec.pace.warmup, seconds(5.));
    assert_eq!(target(first).timeout, seconds(2.));
    assert_eq!(target(second).timeout, seconds(1.5));
    assert_eq!((third.conf.weight, target(third).to.port()), (0, 8080));
}

#[test]
fn tunnels_and_definitions() {
    let config = good("tunnels.conf");
    let server = only(&config);
    assert_eq!((server.ask.scheduler.as_str(), server.ask.sched_flags), ("mh", 24));
    let [first, second, third] = &server.servers[..] else { panic!() };
    assert_eq!(second.conf.tunnel.kind, TunType::Gue);
    assert_eq!(second.conf.tunnel.port, Port::new(6080));
    assert!(third.addr.is_ipv6() && third.inhibit && check(third).spec.pace.alpha);
    for (server, mark) in [(first, 101), (second, 102)] {
        let Probe::Tcp(target) = &check(server).spec.probe else { panic!() };
        assert_eq!((target.mark, target.to.to_string()), (mark, "192.0.2.20:443".to_owned()));
    }
}

#[test]
fn nat_with_pages() {
    let config = good("nat.conf");
    let server = only(&config);
    let persistence = server.ask.persistence.unwrap();
    assert_eq!((persistence.timeout, persistence.netmask), (900, Netmask::V4([255, 255, 255, 0].into())));
    assert_eq!(server.servers.len(), 4);
    let last = &server.servers[3];
    assert_eq!(
        (last.name.as_str(), last.conf.upper, last.conf.lower),
        ("[10.30.0.24]:tcp:8080", 20000, 15000)
    );
    let Probe::Http(http) = &check(last).spec.probe else { panic!() };
    assert_eq!(http.urls.len(), 2);
    assert_eq!(http.urls[0].status, [(200, 200), (204, 206)]);
    assert_eq!(http.urls[0].virtualhost.as_deref(), Some("shop.example.org"));
    assert_eq!(http.urls[1].digest.unwrap()[..3], [0x01, 0x23, 0x45]);
    let dest = dest_of(&server.services[0], last.addr, last.port, last.conf.method);
    assert_eq!(dest.port, Port::new(8080));
}

#[test]
fn groups() {
    let config = good("group.conf");
    let server = only(&config);
    assert_eq!(server.name, "[PASSIVE]:0");
    assert_eq!(server.services.len(), 1 + 3 + 4 + 1);
    assert!(server.services.iter().any(|service| service.mark() == 40));
    let servers = &server.servers;
    assert_eq!((servers[1].checks.len(), servers[1].conf.weight), (2, 1));
    let ports = |service: &ServiceId| dest_of(service, servers[0].addr, servers[0].port, Method::Route).port;
    assert_eq!(ports(&server.services[0]), Port::new(21));
    assert_eq!(ports(&server.services[8]), Port::ZERO);
}

#[test]
fn quorum_and_scripts() {
    let config = good("sorry.conf");
    let server = only(&config);
    assert_eq!((server.quorum, server.hysteresis, server.omega), (30, 10, true));
    assert_eq!(server.quorum_up.as_ref().unwrap().words, ["/usr/bin/logger", "-t", "lb", "vip 50 announce"]);
    assert!(server.sorry.as_ref().unwrap().inhibit);
    let Probe::Misc(misc) = &check(&server.servers[1]).spec.probe else { panic!() };
    assert!(misc.dynamic && misc.timeout == seconds(4.));
    assert_eq!(check(&server.servers[2]).spec.pace.warmup, Duration::ZERO);
}

#[test]
fn datagrams_and_conditions() {
    let config = good("dns.conf");
    let [udp, tcp] = &config.servers[..] else { panic!() };
    assert!(udp.ask.ops && matches!(udp.services[0], ServiceId::Addr { proto: Proto::UDP, .. }));
    let Probe::Udp(probe) = &check(&udp.servers[1]).spec.probe else { panic!() };
    let reply = probe.reply.as_ref().unwrap();
    assert_eq!(
        (probe.payload.len(), reply.pattern.as_slice(), reply.length),
        (17, &[(0, 255), (1, 255)][..], (0, 512))
    );
    assert_eq!(check(&tcp.servers[0]).spec.pace.delay_loop, seconds(10.));
    let lab = load(&path("dns.conf"), "lab").config;
    assert_eq!(check(&lab.servers[1].servers[0]).spec.pace.delay_loop, seconds(1.));
}

#[test]
fn our_own_words() {
    let (config, _) = said(
        "virtual_server 10.0.0.1 443 {\n lb_algo rr\n lb_kind DR\n protocol TCP\n slow_start 30\n on_down reset\n\
         real_server 10.0.0.2 443 { SSL_GET { url { path / }\n verify\n } }\n}\n",
    );
    let server = only(&config);
    assert_eq!((server.slow_start, server.on_down), (seconds(30.), OnDown::Reset));
    let Probe::Http(http) = &check(&server.servers[0]).spec.probe else { panic!() };
    assert!(http.tls.as_ref().unwrap().verify);
}

/// One check for each address of a group, to the port a straight one goes to; NAT needs none of it.
#[test]
fn checks_along_the_path() {
    const TEXT: &str = "virtual_server_group G {\n 192.0.2.1 80\n 192.0.2.1 443\n 192.0.2.2 80\n}\n\
        virtual_server group G {\n lb_algo rr\n lb_kind TUN type gue port 6080\n protocol TCP\n \
        real_server 10.0.0.2 80 {\n TCP_CHECK {\n connect_port 81\n }\n PING_CHECK {\n }\n }\n \
        real_server 10.0.0.3 80 {\n lvs_method NAT\n TCP_CHECK {\n }\n }\n \
        real_server 10.0.0.4 80 {\n lvs_method DR\n HTTP_GET {\n url {\n path /\n }\n connect_ip 192.0.2.9\n }\n }\n \
        check_path forwarding\n}\n";
    let (config, problems) = said(TEXT);
    assert_eq!(problems.status(), 0, "{:#?}", problems.iter().collect::<Vec<_>>());
    let ways = |at: usize| {
        let checks = config.servers[0].servers[at].checks.iter();
        let way = |check: &Check| {
            let target = check.spec.probe.target()?;
            let via =
                target.via.as_ref().map(|via| (via.vip.to_string(), via.tunnel.map(|tunnel| tunnel.kind)));
            Some((target.to.to_string(), via))
        };
        checks.map(way).collect::<Vec<_>>()
    };
    let to = |to: &str, vip: &str, kind| Some((to.to_owned(), Some((vip.to_owned(), kind))));
    let gue = Some(TunType::Gue);
    assert_eq!(ways(0), [to("10.0.0.2:81", "192.0.2.1", gue), to("10.0.0.2:81", "192.0.2.2", gue), None]);
    assert_eq!(ways(1), [Some(("10.0.0.3:80".to_owned(), None))]);
    assert_eq!(ways(2), [to("10.0.0.4:80", "192.0.2.9", None)]);
    // The same question on another way is another check.
    let (straight, _) = said(&TEXT.replace("check_path forwarding", "check_path direct"));
    assert_ne!(straight.servers[0].servers[0].checks[0].spec, config.servers[0].servers[0].checks[0].spec);
    assert_eq!(straight.servers[0].servers[1].checks[0].spec, config.servers[0].servers[1].checks[0].spec);
}

/// Where there is no such way for a check, it is told, and the check goes straight.
#[test]
fn checks_that_have_no_path() {
    let server = |head: &str, kind: &str, inside: &str| {
        said(&format!(
            "virtual_server {head} {{\n lb_algo rr\n lb_kind {kind}\n protocol TCP\n check_path forwarding\n \
             real_server 10.0.0.2 80 {{\n TCP_CHECK {{\n connect_port 80\n {inside}\n }}\n }}\n}}\n"
        ))
    };
    for (head, kind, inside, reason, vip) in [
        ("fwmark 5", "DR", "", "connect_ip", None),
        ("fwmark 5", "DR", "connect_ip 192.0.2.1", "", Some("192.0.2.1")),
        ("2001:db8::1 80", "TUN", "", "another family", None),
        ("192.0.2.1 80", "DR", "bind_port 999", "bind_port", Some("192.0.2.1")),
        ("192.0.2.1 80", "NAT", "bind_port 999", "", None),
    ] {
        let (config, problems) = server(head, kind, inside);
        let texts: Vec<_> = problems.iter().filter(|problem| problem.severity == Severity::Warning).collect();
        let told = texts.iter().filter(|problem| problem.text.contains(reason)).count();
        assert_eq!((told, texts.len()), (usize::from(!reason.is_empty()), told), "{head} {kind}: {texts:#?}");
        let via = check(&config.servers[0].servers[0]).spec.probe.target().unwrap().via.as_ref();
        assert_eq!(via.map(|via| via.vip.to_string()).as_deref(), vip, "{head} {kind}");
    }
    assert!(said("virtual_server 192.0.2.1 80 {\n check_path sideways\n}\n").1.iter().any(|problem| {
        problem.place.to_string().contains(":2") && problem.text.contains("direct or forwarding")
    }));
}

#[test]
fn an_unknown_block_takes_nothing_with_it() {
    let (config, problems) = said(
        "virtual_server 10.0.0.1 80 {\n lb_algo rr\n lb_kind DR\n protocol TCP\n strange { a { b } }\n\
         real_server 10.0.0.2 80 { TCP_CHECK { } }\n}\n",
    );
    let said: Vec<String> = problems.iter().map(|problem| problem.text.clone()).collect();
    assert_eq!(said, ["Unknown keyword 'strange' (its block is passed over)"]);
    assert_eq!(only(&config).servers.len(), 1);
}

#[test]
fn every_problem_is_said_with_its_line() {
    let Loaded { problems, .. } = load(&path("wrong.conf"), "host1");
    let dir = path("").display().to_string();
    let said: String = problems.iter().map(|problem| format!("{problem}\n").replace(&dir, "")).collect();
    let expected = path("wrong.txt");
    if std::env::var_os("LB_BLESS").is_some() {
        std::fs::write(&expected, &said).unwrap();
    }
    assert_eq!(said, std::fs::read_to_string(expected).unwrap());
    assert_eq!(problems.status(), 5);
}

/// Words of a text: a keyword is one.
fn words(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    text.split(|c| !is_part(c)).filter(|word| word.len() > 1).collect()
}

/// Words in quotes on a line, each in its own.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2).filter(|text| words(text).contains(text))
}

/// Every keyword that is read stands in the tables of docs/keepalived.md, and every word of their first columns is read.
#[test]
fn the_documented_keywords_are_those_that_are_read() {
    const DOCUMENT: &str = include_str!("../../docs/keepalived.md");
    /// Values, which stand beside their keywords.
    const VALUES: [&str; 5] = ["true", "false", "yes", "off", "on"];
    /// What else the first columns are written with.
    const PROSE: &str = "IP PORT NAME IFACE SECONDS FILE ADDRESS NIC bool of or with and what else in at the end before \
        scripts other words own processes are tuned defaults SNMP VRRP options keyword tunnel where none is said \
        reset move leave \
        checker_priority reload_check_config keepalived";
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/agent/config/read");
    let mut source = String::new();
    for file in std::fs::read_dir(reader).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        source += text.split("#[cfg(test)]").next().unwrap();
    }
    // Arms of a match: up to the arrow, words in quotes and bars.
    let arms = source.lines().map(str::trim_start).filter(|line| line.starts_with(['"', '|']));
    let left = arms.map(|line| line.split("=>").next().unwrap_or_default());
    let known: BTreeSet<&str> = left.flat_map(quoted).collect();
    assert!(known.len() > 100, "{known:?}");
    let documented = words(DOCUMENT);
    let missing: Vec<_> =
        known.iter().filter(|word| !documented.contains(**word) && !VALUES.contains(word)).collect();
    assert_eq!(missing, Vec::<&&str>::new(), "not documented");

    let all: BTreeSet<&str> = source.lines().flat_map(quoted).collect();
    let (_, tables) = DOCUMENT.split_once("## Keywords").unwrap();
    let first =
        tables.lines().filter(|line| line.starts_with("| ")).filter_map(|line| line.split(" | ").next());
    let prose = words(PROSE);
    let unread: Vec<&str> =
        first.flat_map(words).filter(|word| !all.contains(word) && !prose.contains(word)).collect();
    assert_eq!(unread, Vec::<&str>::new(), "documented, and not read");
}

#[test]
fn a_thousand_errors() {
    let text: String = (0..1000).map(|at| format!("virtual_server nowhere{at} 80 {{\n}}\n")).collect();
    let (_, problems) = said(&text);
    let lines: Vec<u32> = problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
        .map(|problem| problem.place.line)
        .collect();
    assert_eq!(lines, (0..1000).map(|at| at * 2 + 1).collect::<Vec<u32>>());
}

#[test]
fn a_file_that_is_not_there() {
    let Loaded { problems, .. } = load(Path::new("/no/such/file"), "host1");
    assert_eq!(problems.status(), 5);
    let said = problems.iter().next().unwrap().to_string();
    assert_eq!(said, "/no/such/file: error: cannot be opened: No such file or directory (os error 2)");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// Whatever stands in a file, reading it ends, and something is said about what makes no sense.
    #[test]
    fn any_text(words in proptest::collection::vec(proptest::sample::select(WORDS.as_slice()), 0..60)) {
        let (config, problems) = said(&words.concat());
        let whole = config.servers.iter().all(|server| !server.services.is_empty());
        proptest::prop_assert!(whole || problems.status() != 0);
    }
}

/// What happens to a file: a line lost, twice, or elsewhere; a byte of it another one.
#[derive(Debug, Clone)]
enum Damage {
    Lost(usize),
    Twice(usize),
    Swapped(usize, usize),
    Byte(usize, u8),
    Cut(usize),
}

fn damage() -> impl proptest::prelude::Strategy<Value = Damage> {
    use proptest::prelude::{Strategy as _, any, prop_oneof};
    prop_oneof![
        any::<usize>().prop_map(Damage::Lost),
        any::<usize>().prop_map(Damage::Twice),
        any::<(usize, usize)>().prop_map(|(a, b)| Damage::Swapped(a, b)),
        any::<(usize, u8)>().prop_map(|(at, byte)| Damage::Byte(at, byte)),
        any::<usize>().prop_map(Damage::Cut),
    ]
}

fn damaged(bytes: &mut Vec<u8>, damage: &Damage) {
    let mut lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let (line, byte) = (lines.len(), bytes.len().max(1));
    match *damage {
        Damage::Lost(at) => drop(lines.remove(at % line)),
        Damage::Twice(at) => lines.insert(at % line, lines[at % line].clone()),
        Damage::Swapped(a, b) => lines.swap(a % line, b % line),
        Damage::Byte(at, new) => {
            return bytes.iter_mut().skip(at % byte).take(1).for_each(|byte| *byte = new);
        }
        Damage::Cut(at) => return bytes.truncate(at % byte),
    }
    *bytes = lines.join(&b'\n');
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// Files as people have them, damaged: reading them ends, and what makes no sense any more is said.
    #[test]
    fn any_damage(
        name in proptest::sample::select(FILES.as_slice()),
        damages in proptest::collection::vec(damage(), 0..8),
    ) {
        let mut bytes = std::fs::read(path(name)).unwrap();
        damages.iter().for_each(|damage| damaged(&mut bytes, damage));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let Loaded { config, problems } = load(file.path(), "host1");
        let whole = config.servers.iter().all(|server| !server.services.is_empty());
        proptest::prop_assert!(whole || problems.status() != 0);
    }
}

const FILES: [&str; 8] =
    ["dns.conf", "dr.conf", "group.conf", "lab.conf", "nat.conf", "sorry.conf", "tunnels.conf", "wrong.conf"];

/// What configurations are made of, and what they are not.
const WORDS: [&str; 58] = [
    " ",
    "\n",
    "\n",
    "{",
    "}",
    " { ",
    " }\n",
    "\"",
    "'",
    "\\",
    "\\\n",
    "#",
    "!",
    "$A",
    "${A}",
    "$A=",
    "$A= \\\n",
    "~SEQ(A, 1, 3) ",
    "~SEQ(A, 0, -1, 99) ",
    "~LST({A,B}, {1,2}, {3}) ",
    "@h ",
    "@^h ",
    "virtual_server ",
    "virtual_server_group ",
    "group ",
    "G ",
    "fwmark ",
    "1",
    "10.0.0.1 ",
    "fd00::1 ",
    "10.0.0.1-9 ",
    "10.0.0.0/30 ",
    "80\n",
    "80-81\n",
    "99999999999 ",
    "real_server ",
    "real_server 10.0.0.2 80 {\n",
    "TCP_CHECK {\n",
    "HTTP_GET {\n",
    "url {\n",
    "path /\n",
    "regex \"(\"\n",
    "MISC_CHECK {\n",
    "misc_path \"/bin/true\"\n",
    "UDP_CHECK {\n",
    "payload 0x\n",
    "quorum ",
    "weight ",
    "lb_kind TUN type gue port ",
    "persistence_granularity ",
    "sorry_server ",
    "status_code 200-\n",
    "notify_up \\x\\c ",
    "include *\n",
    "é",
    "\0",
    "${_RANDOM 9 1}",
    "${_ENV }",
];
