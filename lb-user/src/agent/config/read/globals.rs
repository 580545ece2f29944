//! `global_defs`, `track_file` and `SSL`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use super::values::{boolean, number};
use super::{Reader, TrackFile};
use crate::agent::config::model::{SyncDaemon, Tls};
use crate::agent::config::tree::Statement;
use crate::control::model::Resync;

impl Reader<'_> {
    pub(super) fn globals(&mut self, block: &[Statement]) {
        for statement in block {
            self.global(statement);
        }
    }

    fn global(&mut self, statement: &Statement) {
        match statement.keyword() {
            "lvs_timeouts" => self.globals.timeouts = self.timeouts(statement),
            "lvs_flush" => self.globals.flush = self.flag(statement).unwrap_or(false),
            "rs_init_notifies" => self.globals.init_notifies = self.flag(statement).unwrap_or(false),
            "checker_log_all_failures" => {
                self.globals.log_all_failures = self.flag(statement).unwrap_or(false);
            }
            "lvs_sync_daemon" => self.globals.sync = self.sync_daemon(statement),
            "script_user" => self.script_user(statement),
            "enable_script_security" => self.users.secure = true,
            "script_no_new_privs" => self.users.no_new_privs = self.flag(statement).unwrap_or(false),
            "lvs_notify_fifo" | "notify_fifo" => {
                let path = self.text(statement).map(PathBuf::from);
                self.globals.fifos.extend(path);
            }
            "nftables_ipvs" | "nftables_ipvs_start_fwmark" => {
                self.note(statement, "without effect: each address of a group is a service of its own");
            }
            "smtp_alert"
            | "smtp_alert_checker"
            | "notification_email"
            | "notification_email_from"
            | "smtp_server"
            | "smtp_helo_name"
            | "smtp_connect_timeout"
            | "no_checker_emails" => {
                self.note(statement, format!("{}: the agent sends no mail", statement.keyword()));
            }
            "lvs_flush_on_stop" => {
                self.note(
                    statement,
                    "without effect: `lb-user agent --purge-on-exit` takes its services with it",
                );
            }
            // Router id, VRRP's defaults, process tuning, SNMP: keepalived reads them, and nobody here needs them.
            _ => {}
        }
    }

    fn timeouts(&mut self, statement: &Statement) -> Option<[u32; 3]> {
        let mut found = [0; 3];
        for pair in statement.rest().chunks(2) {
            let at = match pair.first().map(String::as_str) {
                Some("tcp") => 0,
                Some("tcpfin") => 1,
                Some("udp") => 2,
                _ => {
                    self.warn(statement, "lvs_timeouts: [tcp S] [tcpfin S] [udp S] is wanted; passed over");
                    return None;
                }
            };
            match pair.get(1).and_then(|word| number(word)).filter(|seconds| *seconds <= 31 * 86400) {
                Some(seconds) => found[at] = seconds,
                None => {
                    self.warn(statement, "lvs_timeouts: seconds from 1 to 2678400 are wanted; passed over");
                    return None;
                }
            }
        }
        Some(found)
    }

    fn sync_daemon(&mut self, statement: &Statement) -> Option<SyncDaemon> {
        let interface = self.text(statement)?;
        let mut daemon = SyncDaemon {
            place: statement.place.clone(),
            interface,
            instance: None,
            id: None,
            maxlen: 0,
            port: 8848,
            ttl: 1,
            group: Ipv4Addr::new(224, 0, 0, 81).into(),
            resync: None,
        };
        let usual = Resync { key: PathBuf::new(), port: Resync::PORT, peer: None };
        let mut resync = usual.clone();
        let mut words = statement.rest().iter().skip(1).map(String::as_str).peekable();
        // In old files the instance stands without its `inst`.
        let known = |word: &&str| {
            matches!(*word, "inst" | "id" | "maxlen" | "port" | "ttl" | "group")
                || matches!(*word, "resync_key" | "resync_port" | "resync_peer")
        };
        if let Some(name) = words.next_if(|word| !known(word)) {
            daemon.instance = Some(name.to_owned());
        }
        while let Some(word) = words.next() {
            let value = words.next();
            let fits = value.is_some_and(|value| {
                set_sync(&mut daemon, word, value).or_else(|| set_resync(&mut resync, word, value)).is_some()
            });
            if !fits {
                let value = value.unwrap_or_default();
                self.warn(statement, format!("lvs_sync_daemon: `{word} {value}` is not understood"));
            }
        }
        if !resync.key.as_os_str().is_empty() {
            daemon.resync = Some(resync);
        } else if resync != usual {
            self.warn(statement, "lvs_sync_daemon: without resync_key there is no full resync");
        }
        Some(daemon)
    }

    pub(super) fn track_file(&mut self, statement: &Statement) {
        let Some(name) = self.text(statement) else { return };
        let mut found = TrackFile { file: PathBuf::new(), weight: 1 };
        for line in self.block(statement) {
            match line.keyword() {
                "file" => found.file = self.text(line).map(PathBuf::from).unwrap_or_default(),
                "weight" => {
                    let weight = self.value(line, "a number", |word| word.parse::<i32>().ok()).unwrap_or(1);
                    found.weight =
                        if line.word(2) == Some("reverse") { weight.wrapping_neg() } else { weight };
                }
                "init_file" => self.note(line, "init_file: the file is not made"),
                _ => self.unknown(line),
            }
        }
        if found.file.as_os_str().is_empty() {
            self.error(statement, format!("track_file {name}: no `file`"));
        }
        self.files.insert(name, found);
    }

    pub(super) fn ssl(&mut self, statement: &Statement) {
        let (mut certificate, mut key) = (None, None);
        for line in self.block(statement) {
            match line.keyword() {
                "password" => self.warn(line, "password: keys with a password cannot be read"),
                "ca" => self.ssl.ca = self.text(line).map(PathBuf::from),
                "certificate" => certificate = self.text(line).map(PathBuf::from),
                "key" => key = self.text(line).map(PathBuf::from),
                // Ours: everywhere, not only in single checks.
                "verify" => self.ssl.verify = line.word(1).is_none_or(|word| boolean(word).unwrap_or(true)),
                _ => self.unknown(line),
            }
        }
        self.ssl = Tls { identity: certificate.zip(key), ..self.ssl.clone() };
    }
}

fn set_sync(daemon: &mut SyncDaemon, word: &str, value: &str) -> Option<()> {
    match word {
        "inst" => daemon.instance = Some(value.to_owned()),
        "id" => daemon.id = Some(value.parse().ok()?),
        "maxlen" => daemon.maxlen = value.parse().ok()?,
        "port" => daemon.port = value.parse().ok().filter(|port| *port != 0)?,
        "ttl" => daemon.ttl = value.parse().ok().filter(|ttl| *ttl != 0)?,
        "group" => daemon.group = value.parse().ok().filter(IpAddr::is_multicast)?,
        _ => return None,
    }
    Some(())
}

fn set_resync(resync: &mut Resync, word: &str, value: &str) -> Option<()> {
    match word {
        "resync_key" => resync.key = Path::new(value).is_absolute().then(|| value.into())?,
        "resync_port" => resync.port = value.parse().ok().filter(|port| *port != 0)?,
        "resync_peer" => resync.peer = Some(value.parse().ok()?),
        _ => return None,
    }
    Some(())
}
