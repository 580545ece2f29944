//! From the results of checks to what serves: servers up or down, effective weights, quorum, sorry server. No clock of its
//! own, no I/O: results go in, events come out, and [`State::wanted`] says what the tables should hold.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::apply::Wanted;
use super::config::model::{RealServer, Script, Sorry, VirtualServer, dest_of, named};
use crate::control::model::{DestConf, DestId, Port, ServiceId};

/// What a check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Does the server pass?
    pub up: bool,
    /// What it says about the weight.
    pub weight: Weight,
}

/// What a check says about a weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weight {
    /// Nothing.
    #[default]
    Configured,
    /// This instead of the configured one.
    Instead(u32),
    /// This more, or less.
    More(i64),
}

/// Something the outside has to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A line for the log, and what it is about.
    Log {
        /// What operators look for.
        line: String,
        /// By its name.
        virtual_server: String,
        /// By its name, if it is about a single one.
        real_server: Option<String>,
    },
    /// A script to run.
    Run(Script),
    /// A line for those who read the FIFO.
    Fifo(String),
}

impl Event {
    /// A line about a virtual server.
    pub fn about(server: &VirtualServer, line: String) -> Self {
        Self::Log { line, virtual_server: server.name.clone(), real_server: None }
    }

    /// A line about one of its servers.
    pub fn about_one(server: &VirtualServer, rs: &RealServer, line: String) -> Self {
        Self::Log { line, virtual_server: server.name.clone(), real_server: Some(rs.name.clone()) }
    }
}

/// A virtual server's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Enough weight is alive.
    pub quorum_up: bool,
    servers: Vec<Server>,
}

/// A real server's state.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    end: (IpAddr, Option<Port>),
    verdicts: Vec<Verdict>,
    /// When it came back, while it is not yet at its full weight.
    rising_since: Option<Instant>,
}

impl Server {
    fn is_up(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.up)
    }

    /// Computed anew each time from its parts, so that nothing can drift.
    fn weight(&self, server: &RealServer) -> u32 {
        let configured = i64::from(server.conf.weight);
        let offset = |verdict: &Verdict| match verdict.weight {
            _ if !verdict.up => 0,
            Weight::Configured => 0,
            Weight::Instead(weight) => i64::from(weight) - configured,
            Weight::More(offset) => offset,
        };
        let sum = self.verdicts.iter().map(offset).fold(configured, i64::saturating_add);
        sum.clamp(0, i64::from(i32::MAX)) as u32
    }
}

/// The part of a weight a server has that came up a while ago; at least 1 of it.
fn risen(weight: u32, passed: Duration, whole: Duration) -> u32 {
    if passed >= whole || weight == 0 {
        return weight;
    }
    let part = u128::from(weight) * passed.as_millis() / whole.as_millis().max(1);
    u32::try_from(part).unwrap_or(weight).max(1)
}

impl State {
    /// At the start, or after a reload: `verdict` knows every check, `before` is what this virtual server was.
    pub fn new(
        server: &VirtualServer,
        before: Option<&State>,
        verdict: impl Fn(usize, usize) -> Verdict,
    ) -> (Self, Vec<Event>) {
        let state_of = |(at, rs): (usize, &RealServer)| {
            let end = (rs.addr, rs.port);
            let old = before.and_then(|state| state.servers.iter().find(|server| server.end == end));
            Server {
                end,
                verdicts: (0..rs.checks.len()).map(|check| verdict(at, check)).collect(),
                rising_since: old.and_then(|old| old.rising_since),
            }
        };
        let servers = server.servers.iter().enumerate().map(state_of).collect();
        let mut state = Self { quorum_up: before.is_some_and(|state| state.quorum_up), servers };
        let mut events = Vec::new();
        state.judge_quorum(server, before.is_none(), &mut events);
        if before.is_none() && !state.quorum_up {
            events.push(Event::about(server, format!("Starting with quorum down for VS {}", server.name)));
            if server.sorry.is_some() {
                state.lost(server, &mut events);
            }
        }
        (state, events)
    }

    /// Is the server at this place up?
    pub fn is_up(&self, at: usize) -> bool {
        self.servers.get(at).is_some_and(Server::is_up)
    }

    /// The server's weight as its checks have it.
    pub fn weight(&self, server: &VirtualServer, at: usize) -> u32 {
        self.servers.get(at).zip(server.servers.get(at)).map_or(0, |(state, rs)| state.weight(rs))
    }

    /// A check has said something.
    pub fn set(
        &mut self,
        server: &VirtualServer,
        at: usize,
        check: usize,
        verdict: Verdict,
        now: Instant,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        let Some((state, rs)) = self.servers.get_mut(at).zip(server.servers.get(at)) else { return events };
        let (was_up, old) = (state.is_up(), state.weight(rs));
        if let Some(slot) = state.verdicts.get_mut(check) {
            *slot = verdict;
        }
        let (up, new) = (state.is_up(), state.weight(rs));
        match (was_up, up) {
            (false, true) => state.rising_since = (!server.slow_start.is_zero()).then_some(now),
            (true, false) => state.rising_since = None,
            _ => {}
        }
        if old != new {
            let active = if up { "active" } else { "inactive" };
            let (name, vs) = (&rs.name, &server.name);
            let line = format!("Changing weight from {old} to {new} for {active} service {name} of VS {vs}");
            events.push(Event::about_one(server, rs, line));
        }
        if was_up != up {
            self.tell_change(server, rs, up, &mut events);
        }
        self.judge_quorum(server, false, &mut events);
        events
    }

    fn tell_change(&self, server: &VirtualServer, rs: &RealServer, up: bool, events: &mut Vec<Event>) {
        let (name, vs) = (&rs.name, &server.name);
        let line = match (up, rs.inhibit) {
            (false, false) => format!("Removing service {name} from VS {vs}"),
            (true, false) => format!("Adding service {name} to VS {vs}"),
            (false, true) => format!("Disabling service {name} of VS {vs}"),
            (true, true) => format!("Enabling service {name} of VS {vs}"),
        };
        if self.serves(server) {
            events.push(Event::about_one(server, rs, line));
        }
        let script = if up { &rs.notify_up } else { &rs.notify_down };
        events.extend(script.clone().map(Event::Run));
        events.push(Event::Fifo(format!("RS {name} {vs} {}", if up { "UP" } else { "DOWN" })));
    }

    /// Is there anybody who serves: enough live servers, or the sorry server?
    pub fn has_service(&self, server: &VirtualServer) -> bool {
        self.quorum_up || server.sorry.is_some()
    }

    /// Do live servers serve, or does the sorry server?
    fn serves(&self, server: &VirtualServer) -> bool {
        self.quorum_up || server.sorry.is_none()
    }

    /// The sum of the weights of live servers.
    pub fn alive_weight(&self, server: &VirtualServer) -> u64 {
        let alive = self.servers.iter().zip(&server.servers).filter(|(state, _)| state.is_up());
        alive.map(|(state, rs)| u64::from(state.weight(rs))).sum()
    }

    /// `first`: there has been no sorry server yet.
    fn judge_quorum(&mut self, server: &VirtualServer, first: bool, events: &mut Vec<Event>) {
        let alive = self.alive_weight(server);
        let (quorum, hysteresis) = (u64::from(server.quorum), u64::from(server.hysteresis));
        let (gain, lose) = (quorum.saturating_add(hysteresis), quorum.saturating_sub(hysteresis));
        let vs = &server.name;
        if !self.quorum_up && alive > 0 && alive >= gain {
            self.quorum_up = true;
            events.push(Event::about(
                server,
                format!("Gained quorum {quorum}+{hysteresis}={gain} <= {alive} for VS {vs}"),
            ));
            if let Some(sorry) = server.sorry.as_ref().filter(|_| !first) {
                let (verb, sorry) =
                    (if sorry.inhibit { "Disabling" } else { "Removing" }, sorry_name(server, sorry));
                events.push(Event::about(server, format!("{verb} sorry server {sorry} from VS {vs}")));
                events.push(Event::about(server, format!("Adding alive servers to the pool for VS {vs}")));
            }
            events.extend(server.quorum_up.clone().map(Event::Run));
            events.push(Event::Fifo(format!("VS {vs} UP")));
        } else if self.quorum_up && (alive == 0 || alive < lose) {
            self.quorum_up = false;
            events.push(Event::about(
                server,
                format!("Lost quorum {quorum}-{hysteresis}={lose} > {alive} for VS {vs}"),
            ));
            self.lost(server, events);
        }
    }

    fn lost(&self, server: &VirtualServer, events: &mut Vec<Event>) {
        let vs = &server.name;
        if let Some(sorry) = &server.sorry {
            let (verb, sorry) =
                (if sorry.inhibit { "Enabling" } else { "Adding" }, sorry_name(server, sorry));
            events.push(Event::about(server, format!("{verb} sorry server {sorry} to VS {vs}")));
            events.push(Event::about(server, format!("Removing alive servers from the pool for VS {vs}")));
        }
        events.extend(server.quorum_down.clone().map(Event::Run));
        events.push(Event::Fifo(format!("VS {vs} DOWN")));
    }

    /// What runs when the agent takes its services with it: `omega`.
    pub fn farewell(&self, server: &VirtualServer) -> Vec<Event> {
        if !server.omega {
            return Vec::new();
        }
        let up = self.servers.iter().zip(&server.servers).filter(|(state, _)| state.is_up());
        let downs = up.filter_map(|(_, rs)| rs.notify_down.clone());
        downs.chain(server.quorum_down.clone().filter(|_| self.quorum_up)).map(Event::Run).collect()
    }

    /// Is a server on its way to its full weight?
    pub fn is_rising(&self) -> bool {
        self.servers.iter().any(|state| state.rising_since.is_some())
    }

    /// What the tables should hold.
    pub fn wanted(&mut self, server: &VirtualServer, now: Instant) -> Vec<Wanted> {
        let whole = server.slow_start;
        for state in &mut self.servers {
            state.rising_since = state.rising_since.filter(|since| now.duration_since(*since) < whole);
        }
        server.services.iter().map(|service| self.wanted_of(server, service, now)).collect()
    }

    fn wanted_of(&self, server: &VirtualServer, service: &ServiceId, now: Instant) -> Wanted {
        let serves = self.serves(server);
        let mut dests: Vec<(DestId, DestConf)> = Vec::new();
        for (state, rs) in self.servers.iter().zip(&server.servers) {
            let weight = match state.rising_since {
                Some(since) => risen(state.weight(rs), now.duration_since(since), server.slow_start),
                None => state.weight(rs),
            };
            let weight = if state.is_up() && serves { Some(weight) } else { rs.inhibit.then_some(0) };
            let id = dest_of(service, rs.addr, rs.port, rs.conf.method);
            if let Some(weight) = weight.filter(|_| dests.iter().all(|(other, _)| *other != id)) {
                dests.push((id, DestConf { weight, ..rs.conf }));
            }
        }
        if let Some(sorry) = &server.sorry {
            let id = dest_of(service, sorry.addr, sorry.port, sorry.conf.method);
            let weight = if serves { sorry.inhibit.then_some(0) } else { Some(sorry.conf.weight) };
            let conf = weight.map(|weight| DestConf { weight, ..sorry.conf });
            // It may be one of the servers as well; then the one that serves counts.
            match (dests.iter_mut().find(|(other, _)| *other == id), conf) {
                (Some(_), _) if serves => {}
                (Some((_, other)), Some(conf)) => *other = conf,
                (None, Some(conf)) => dests.push((id, conf)),
                (_, None) => {}
            }
        }
        let serves = |id: &DestId| dests.iter().any(|(other, conf)| other == id && conf.weight != 0);
        let dead = self.servers.iter().zip(&server.servers).filter(|(state, _)| !state.is_up());
        let dead = dead.map(|(_, rs)| dest_of(service, rs.addr, rs.port, rs.conf.method));
        let dead = dead.filter(|id| !serves(id)).map(|id| (id, server.on_down)).collect();
        Wanted { id: *service, ask: server.ask_for(service), dests, dead }
    }
}

fn sorry_name(server: &VirtualServer, sorry: &Sorry) -> String {
    let first = server.services.first();
    let port = sorry.port.or(first.map(ServiceId::port)).unwrap_or(Port::ZERO);
    named(sorry.addr, first.and_then(ServiceId::proto), port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::config;

    fn server(words: &str) -> VirtualServer {
        let text = format!(
            "virtual_server 10.0.0.1 80 {{\n lb_algo rr\n lb_kind DR\n protocol TCP\n {words}\n\
             real_server 10.0.1.1 80 {{\n weight 20\n TCP_CHECK {{ }}\n }}\n\
             real_server 10.0.1.2 80 {{\n weight 20\n TCP_CHECK {{ }}\n }}\n\
             real_server 10.0.1.3 80 {{\n weight 20\n inhibit_on_failure\n TCP_CHECK {{ }}\n PING_CHECK {{ }}\n }}\n}}\n"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        config::load(file.path(), "h").config.servers.remove(0)
    }

    const UP: Verdict = Verdict { up: true, weight: Weight::Configured };
    const DOWN: Verdict = Verdict { up: false, weight: Weight::Configured };

    fn logs(events: &[Event]) -> Vec<String> {
        let log = |event: &Event| match event {
            Event::Log { line, .. } => {
                Some(line.replace("[10.0.1.", "[").replace("]:tcp:80", "]").replace("[10.0.0.1]", "V"))
            }
            _ => None,
        };
        events.iter().filter_map(log).collect()
    }

    /// Last byte and weight of each dest.
    fn dests(state: &mut State, server: &VirtualServer, now: Instant) -> String {
        let wanted = state.wanted(server, now).remove(0);
        let dest = |(id, conf): &(DestId, DestConf)| {
            format!("{}={}", id.addr.to_string().rsplit('.').next().unwrap_or_default(), conf.weight)
        };
        wanted.dests.iter().map(dest).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_failed_server_goes_or_stays_with_weight_0() {
        let (server, now) = (server(""), Instant::now());
        let (mut state, events) = State::new(&server, None, |_, _| UP);
        assert_eq!(logs(&events), ["Gained quorum 1+0=1 <= 60 for VS V"]);
        assert_eq!(dests(&mut state, &server, now), "1=20 2=20 3=20");
        let events = state.set(&server, 0, 0, DOWN, now);
        assert_eq!(logs(&events), ["Removing service [1] from VS V"]);
        assert_eq!(dests(&mut state, &server, now), "2=20 3=20");
        assert_eq!(logs(&state.set(&server, 2, 1, DOWN, now)), ["Disabling service [3] of VS V"]);
        assert_eq!(logs(&state.set(&server, 2, 0, DOWN, now)), Vec::<String>::new());
        assert_eq!(dests(&mut state, &server, now), "2=20 3=0");
        assert_eq!(logs(&state.set(&server, 2, 1, UP, now)), Vec::<String>::new());
        assert_eq!(logs(&state.set(&server, 2, 0, UP, now)), ["Enabling service [3] of VS V"]);
        assert_eq!(logs(&state.set(&server, 0, 0, UP, now)), ["Adding service [1] to VS V"]);
    }

    #[test]
    fn quorum_with_hysteresis_and_a_sorry_server() {
        let (server, now) =
            (server("quorum 30\nhysteresis 10\nsorry_server 10.0.1.9 80\nalpha"), Instant::now());
        let (mut state, events) = State::new(&server, None, |_, _| DOWN);
        assert_eq!(
            logs(&events),
            [
                "Starting with quorum down for VS V",
                "Adding sorry server [9] to VS V",
                "Removing alive servers from the pool for VS V"
            ]
        );
        assert_eq!(dests(&mut state, &server, now), "3=0 9=1");
        // One is not enough, and is not added while the sorry server serves.
        assert_eq!(logs(&state.set(&server, 0, 0, UP, now)), Vec::<String>::new());
        assert_eq!(dests(&mut state, &server, now), "3=0 9=1");
        assert_eq!(
            logs(&state.set(&server, 1, 0, UP, now)),
            [
                "Gained quorum 30+10=40 <= 40 for VS V",
                "Removing sorry server [9] from VS V",
                "Adding alive servers to the pool for VS V"
            ]
        );
        assert_eq!(dests(&mut state, &server, now), "1=20 2=20 3=0");
        assert_eq!(logs(&state.set(&server, 1, 0, DOWN, now)), ["Removing service [2] from VS V"]);
        assert_eq!(dests(&mut state, &server, now), "1=20 3=0");
        let events = state.set(&server, 0, 0, DOWN, now);
        assert_eq!(logs(&events)[1], "Lost quorum 30-10=20 > 0 for VS V");
        assert_eq!(dests(&mut state, &server, now), "3=0 9=1");
    }

    #[test]
    fn weights_come_from_their_parts() {
        let (server, now) = (server(""), Instant::now());
        let (mut state, _) = State::new(&server, None, |_, _| UP);
        let weight = |weight| Verdict { up: true, weight };
        let events = state.set(&server, 2, 0, weight(Weight::Instead(7)), now);
        assert_eq!(logs(&events), ["Changing weight from 20 to 7 for active service [3] of VS V"]);
        state.set(&server, 2, 1, weight(Weight::More(-3)), now);
        assert_eq!(state.weight(&server, 2), 4);
        state.set(&server, 2, 1, weight(Weight::More(-300)), now);
        assert_eq!(dests(&mut state, &server, now), "1=20 2=20 3=0");
        state.set(&server, 2, 1, UP, now);
        state.set(&server, 2, 0, DOWN, now);
        assert_eq!(state.weight(&server, 2), 20);
    }

    #[test]
    fn a_server_that_comes_back_rises_slowly() {
        let (server, now) = (server("slow_start 10"), Instant::now());
        let (mut state, _) = State::new(&server, None, |_, _| UP);
        assert!(!state.is_rising());
        state.set(&server, 0, 0, DOWN, now);
        state.set(&server, 0, 0, UP, now);
        let mut at = |seconds: u64| dests(&mut state, &server, now + Duration::from_secs(seconds));
        assert_eq!(at(0), "1=1 2=20 3=20");
        assert_eq!(at(5), "1=10 2=20 3=20");
        // A reload does not make it jump.
        let mut state = State::new(&server, Some(&state), |_, _| UP).0;
        let mut at = |seconds: u64| dests(&mut state, &server, now + Duration::from_secs(seconds));
        assert_eq!(at(6), "1=12 2=20 3=20");
        assert_eq!(at(10), "1=20 2=20 3=20");
        assert!(!state.is_rising());
    }
}
