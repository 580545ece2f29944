//! The agent over tables in memory: what a start, a reload and a check's result change in them, and what they leave.

#![allow(clippy::unwrap_used, reason = "a failing test should say so where it happens")]

mod common;

use std::fs;

use common::{dest, service};
use lb_user::agent::apply::{self, Owned};
use lb_user::agent::check::path::Paths;
use lb_user::agent::config::{self, Loaded};
use lb_user::agent::drains::{DrainFile, Drains};
use lb_user::agent::keeper::Keeper;
use lb_user::agent::remember::{Memory, Saved};
use lb_user::agent::verdict::{State, Verdict, Weight};
use lb_user::cli::names::NoNames;
use lb_user::cli::save::request_line;
use lb_user::control::balancer::Balancer;
use lb_user::control::memory::MemoryStore;
use lb_user::control::model::{Proto, Service};
use lb_user::control::store::Store;
use lb_user::verbs::diff;
use tempfile::TempDir;

/// Two services, the second with two servers of weights 1 and 2.
const CONFIG: &str = "
global_defs {
  lvs_timeouts tcp 600
}
virtual_server 10.0.0.1 80 {
  protocol TCP
  lb_algo rr
  lb_kind NAT
  real_server 10.1.0.1 8080 { TCP_CHECK { } }
}
virtual_server 10.0.0.2 80 {
  protocol TCP
  lb_algo wlc
  lb_kind DR
  persistence_timeout 60
  real_server 10.1.0.1 80 { weight 1
    TCP_CHECK { } }
  real_server 10.1.0.2 80 { weight 2
    TCP_CHECK { } }
}
";

/// What reading it for the first time does.
const FIRST: [&str; 6] = [
    "ipvsadm --set 600 120 300",
    "ipvsadm -A -t 10.0.0.1:80 -s rr",
    "ipvsadm -a -t 10.0.0.1:80 -r 10.1.0.1:8080 -m -w 1",
    "ipvsadm -A -t 10.0.0.2:80 -s wlc -p 60",
    "ipvsadm -a -t 10.0.0.2:80 -r 10.1.0.1:80 -g -w 1",
    "ipvsadm -a -t 10.0.0.2:80 -r 10.1.0.2:80 -g -w 2",
];

fn loaded(dir: &TempDir, text: &str) -> Loaded {
    let file = dir.path().join("k.conf");
    fs::write(&file, text).unwrap();
    let loaded = config::load(&file, "h");
    assert_eq!(loaded.problems.status(), 0, "{:?}", loaded.problems.iter().collect::<Vec<_>>());
    loaded
}

/// What `lb-user diff` shows.
fn diff(dir: &TempDir, text: &str, store: &impl Store) -> Vec<String> {
    let (saved, drains) = (memory(dir).load().unwrap(), DrainFile::beside(&memory(dir)).load().unwrap());
    diff::changes(&loaded(dir, text), &saved, &drains, store).unwrap().iter().map(request_line).collect()
}

fn memory(dir: &TempDir) -> Memory {
    Memory::of(dir.path(), Some(&dir.path().join("state.json")))
}

fn keeper(dir: &TempDir, store: MemoryStore) -> Keeper<MemoryStore> {
    let (sender, _) = tokio::sync::mpsc::unbounded_channel();
    Keeper::new(store, memory(dir), Paths::default(), sender)
}

/// As `ipvsadm-save -n` has it.
fn saved(store: &impl Store) -> String {
    let mut out = Vec::new();
    lb_user::cli::save::write_all(&store.services().unwrap(), true, &NoNames, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[tokio::test(flavor = "current_thread")]
async fn a_start_and_reloads() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = keeper(&dir, MemoryStore::default());
    assert_eq!(diff(&dir, CONFIG, keeper.store()), FIRST);
    keeper.start(loaded(&dir, CONFIG).config).unwrap();
    assert_eq!(diff(&dir, CONFIG, keeper.store()), Vec::<String>::new());
    assert_eq!(keeper.store().timeouts().unwrap().tcp, 600);

    // Counters show what has been touched.
    let (first, second) = (service(Proto::TCP, "10.0.0.1", 80), service(Proto::TCP, "10.0.0.2", 80));
    for id in [first, second] {
        keeper.store_mut().service_mut(&id).unwrap().stats.conns = 7;
    }
    keeper.store_mut().dest_mut(&second, &dest("10.1.0.1", 80)).unwrap().active = 5;
    let other = CONFIG
        .replace("weight 1\n", "weight 9\n uthreshold 50\n")
        .replace("lb_algo wlc", "lb_algo sh\n sh-port");
    let expected = [
        "ipvsadm -E -t 10.0.0.2:80 -s sh -p 60 -b sh-port",
        "ipvsadm -e -t 10.0.0.2:80 -r 10.1.0.1:80 -g -w 9 -x 50",
    ];
    assert_eq!(diff(&dir, &other, keeper.store()), expected);
    keeper.reload(loaded(&dir, &other).config).unwrap();
    assert_eq!(diff(&dir, &other, keeper.store()), Vec::<String>::new());
    let service: Service = keeper.store().service(&second).unwrap().unwrap();
    assert_eq!((service.stats.conns, service.dests.len()), (7, 2));
    assert!(service.dests.iter().any(|dest| dest.active == 5 && dest.conf.weight == 9));

    // The second service goes, the first one's server moves.
    let less =
        CONFIG.split("virtual_server 10.0.0.2").next().unwrap().replace("10.1.0.1 8080", "10.1.0.3 8080");
    let expected = [
        "ipvsadm -D -t 10.0.0.2:80",
        "ipvsadm -a -t 10.0.0.1:80 -r 10.1.0.3:8080 -m -w 1",
        "ipvsadm -d -t 10.0.0.1:80 -r 10.1.0.1:8080",
    ];
    assert_eq!(diff(&dir, &less, keeper.store()), expected);
    keeper.reload(loaded(&dir, &less).config).unwrap();
    assert_eq!(
        saved(keeper.store()),
        "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.1.0.3:8080 -m -w 1\n"
    );
}

/// A drain stands until it is ended: through the clock, a reload, a dest that comes back, and another agent.
#[tokio::test(flavor = "current_thread")]
async fn a_drain_stands() {
    let dir = tempfile::tempdir().unwrap();
    let drains = DrainFile::beside(&memory(&dir));
    let (id, server) = (service(Proto::TCP, "10.0.0.2", 80), dest("10.1.0.2", 80));
    let weight = |keeper: &Keeper<MemoryStore>| {
        let service = keeper.store().service(&id).unwrap().unwrap();
        service.dests.iter().find(|dest| dest.id == server).map(|dest| dest.conf.weight)
    };
    let mut keeper = keeper(&dir, MemoryStore::default());
    keeper.start(loaded(&dir, CONFIG).config).unwrap();
    assert_eq!(weight(&keeper), Some(2));
    drains.change(|drains| Ok(drains.0.insert((id, server), 2))).unwrap();
    keeper.tick();
    assert_eq!(weight(&keeper), Some(0));
    assert_eq!(diff(&dir, CONFIG, keeper.store()), Vec::<String>::new());
    keeper.store_mut().delete_dest(&id, &server).unwrap();
    let heavier = CONFIG.replace("weight 2", "weight 5");
    keeper.reload(loaded(&dir, &heavier).config).unwrap();
    assert_eq!(weight(&keeper), Some(0));
    let store = std::mem::take(keeper.store_mut());
    let mut keeper = self::keeper(&dir, store);
    keeper.start(loaded(&dir, &heavier).config).unwrap();
    assert_eq!(weight(&keeper), Some(0));
    drains
        .change(|drains| {
            drains.0.clear();
            Ok(())
        })
        .unwrap();
    keeper.tick();
    assert_eq!(weight(&keeper), Some(5));
}

#[tokio::test(flavor = "current_thread")]
async fn what_was_deleted_by_hand_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = keeper(&dir, MemoryStore::default());
    keeper.start(loaded(&dir, CONFIG).config).unwrap();
    let before = saved(keeper.store());
    keeper.store_mut().delete_service(&service(Proto::TCP, "10.0.0.1", 80)).unwrap();
    keeper.store_mut().delete_dest(&service(Proto::TCP, "10.0.0.2", 80), &dest("10.1.0.2", 80)).unwrap();
    keeper.reload(loaded(&dir, CONFIG).config).unwrap();
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&saved(keeper.store())), sorted(&before));
}

/// An agent that was killed left its file; the next one takes out what is no longer configured, and nothing else.
#[tokio::test(flavor = "current_thread")]
async fn only_what_is_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = keeper(&dir, MemoryStore::default());
    first.start(loaded(&dir, CONFIG).config).unwrap();
    let mut desk = common::Desk { balancer: Balancer::new(first.store().clone()) };
    drop(first);
    desk.restore(
        "-A -t 10.0.0.9:80 -s rr
-a -t 10.0.0.9:80 -r 10.1.0.1:80 -g
-a -t 10.0.0.2:80 -r 10.1.0.77:80 -g -w 5
",
    );
    let mut second = keeper(&dir, desk.balancer.store().clone());
    second.start(loaded(&dir, "global_defs {\n}\n").config).unwrap();
    assert_eq!(
        saved(second.store()),
        "-A -t 10.0.0.2:80 -s wlc -p 60\n-a -t 10.0.0.2:80 -r 10.1.0.77:80 -g -w 5\n\
         -A -t 10.0.0.9:80 -s rr\n-a -t 10.0.0.9:80 -r 10.1.0.1:80 -g -w 1\n"
    );
    // With lvs_flush all of it is.
    let mut third = keeper(&dir, second.store().clone());
    third.start(loaded(&dir, "global_defs {\n lvs_flush\n}\n").config).unwrap();
    assert_eq!(saved(third.store()), "");
}

#[tokio::test(flavor = "current_thread")]
async fn leaving_with_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = keeper(&dir, MemoryStore::default());
    keeper.start(loaded(&dir, CONFIG).config).unwrap();
    keeper.purge().unwrap();
    assert_eq!(saved(keeper.store()), "");
    assert_eq!(memory(&dir).load().unwrap(), Saved::default());
}

/// One that the tables refuse does not keep the others out.
#[tokio::test(flavor = "current_thread")]
async fn refusals() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = keeper(&dir, MemoryStore::default());
    let odd = CONFIG.replace("10.1.0.2 80", "224.0.0.1 80");
    keeper.start(loaded(&dir, &odd).config).unwrap();
    assert_eq!(saved(keeper.store()).lines().count(), 4);
    assert!(!saved(keeper.store()).contains("224."));
}

/// What is found dead is marked before it leaves; what comes back, or has to go for another reason, is not dead.
#[test]
fn the_dead_and_the_living() {
    let dir = tempfile::tempdir().unwrap();
    let text = |words: &str| {
        format!(
            "virtual_server 10.0.0.2 80 {{\n protocol TCP\n lb_algo rr\n lb_kind DR\n{words}\n\
             real_server 10.1.0.1 80 {{ TCP_CHECK {{ }} }}\n\
             real_server 10.1.0.2 80 {{ inhibit_on_failure\n TCP_CHECK {{ }} }}\n}}\n"
        )
    };
    let mut balancer = Balancer::new(MemoryStore::default());
    // What a configuration wants while some of its servers are up, and what has been done for it.
    let mut comes_to = |words: &str, up: [bool; 2]| {
        let config = loaded(&dir, &text(words)).config;
        let verdict = |server: usize, _| Verdict { up: up[server], weight: Weight::Configured };
        let mut states: Vec<State> =
            config.servers.iter().map(|server| State::new(server, None, verdict).0).collect();
        let now = std::time::Instant::now();
        let wanted = lb_user::agent::keeper::wanted(&config, &mut states, &Drains::default(), now);
        let services = balancer.store().services().unwrap();
        let requests = apply::plan(&wanted, &Owned::of(&config), &services);
        assert!(apply::carry_out(&mut balancer, &requests).unwrap().is_empty());
        let again = apply::plan(&wanted, &Owned::of(&config), &balancer.store().services().unwrap());
        assert_eq!(again, [], "one time is enough");
        requests.iter().map(request_line).collect::<Vec<String>>()
    };
    let (first, second) = ("-t 10.0.0.2:80 -r 10.1.0.1:80", "-t 10.0.0.2:80 -r 10.1.0.2:80");
    comes_to("on_down reset", [true, true]);
    assert_eq!(
        comes_to("on_down reset", [false, false]),
        [
            format!("# {second}: on_down reset"),
            format!("# {first}: on_down reset"),
            format!("ipvsadm -e {second} -g -w 0"),
            format!("ipvsadm -d {first}")
        ]
    );
    // The one that has stayed gets another fate by a reload.
    assert_eq!(comes_to("on_down move", [false, false]), [format!("# {second}: on_down move")]);
    assert_eq!(
        comes_to("on_down move", [true, true]),
        [
            format!("# {second}: the server lives"),
            format!("ipvsadm -a {first} -g -w 1"),
            format!("ipvsadm -e {second} -g -w 1")
        ]
    );
    // One that is taken out of the configuration is not dead.
    let words = "on_down reset";
    let config = loaded(&dir, &text(words).replace("real_server 10.1.0.1 80 { TCP_CHECK { } }\n", "")).config;
    let owned = Owned::of(&loaded(&dir, &text(words)).config);
    let up = |_, _| Verdict { up: true, weight: Weight::Configured };
    let mut states: Vec<State> = config.servers.iter().map(|server| State::new(server, None, up).0).collect();
    let now = std::time::Instant::now();
    let wanted = lb_user::agent::keeper::wanted(&config, &mut states, &Drains::default(), now);
    let requests = apply::plan(&wanted, &owned, &balancer.store().services().unwrap());
    assert_eq!(requests.iter().map(request_line).collect::<Vec<_>>(), [format!("ipvsadm -d {first}")]);
}

/// Thousands of services are one list of changes, and none when nothing differs.
#[test]
fn many_services() {
    let dir = tempfile::tempdir().unwrap();
    let server = |at: u32| {
        format!(
            "virtual_server 10.{}.{}.1 80 {{\n protocol TCP\n lb_algo rr\n lb_kind DR\n real_server 10.200.0.1 80\n}}\n",
            at / 250,
            at % 250
        )
    };
    let text: String = (0..5000).map(server).collect();
    let config = loaded(&dir, &text).config;
    let mut states: Vec<_> = config
        .servers
        .iter()
        .map(|server| lb_user::agent::verdict::State::new(server, None, |_, _| unreachable!("no checks")).0)
        .collect();
    let wanted =
        lb_user::agent::keeper::wanted(&config, &mut states, &Drains::default(), std::time::Instant::now());
    let owned = Owned::of(&config);
    let mut balancer = Balancer::new(MemoryStore::default());
    let requests = apply::plan(&wanted, &owned, &[]);
    assert_eq!(requests.len(), 10_000);
    assert!(apply::carry_out(&mut balancer, &requests).unwrap().is_empty());
    assert!(apply::plan(&wanted, &owned, &balancer.store().services().unwrap()).is_empty());
}

/// An address is told of while one of its services has somebody to serve, and begins to be once its servers are checked.
#[tokio::test(flavor = "current_thread")]
async fn what_is_announced() {
    let server = |vip: &str, words: &str| {
        format!(
            "virtual_server {vip} {{\n protocol TCP\n lb_algo rr\n lb_kind NAT\n {words}\n \
             real_server 10.1.0.1 80 {{ TCP_CHECK {{ }} }}\n}}\n"
        )
    };
    let config = [
        server("10.0.0.1 80", "announce lo"),
        server("10.0.0.1 443", "announce lo\n alpha"),
        server("10.0.0.2 80", "announce dummy0\n alpha"),
        server("10.0.0.3 80", "announce dummy0\n alpha\n sorry_server 10.1.0.9 80"),
        server("10.0.0.4 80", ""),
        server("10.0.0.5 80", "announce lo").replace("TCP_CHECK { }", ""),
    ]
    .concat();
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = keeper(&dir, MemoryStore::default());
    keeper.start(loaded(&dir, &config).config).unwrap();
    let told: Vec<String> =
        keeper.announcements().iter().map(|(one, add)| format!("{} {} {add}", one.addr, one.nic)).collect();
    assert_eq!(told, ["10.0.0.1 lo false", "10.0.0.3 dummy0 false", "10.0.0.5 lo true"]);

    let file = dir.path().join("mark.conf");
    fs::write(&file, server("fwmark 5", "announce lo")).unwrap();
    let marked = config::load(&file, "h");
    let said: Vec<&str> = marked.problems.iter().map(|problem| problem.text.as_str()).collect();
    assert_eq!(said, ["announce does not go with fwmark: a mark has no address; passed over"]);
    assert_eq!(marked.config.servers[0].announce, None);
}
