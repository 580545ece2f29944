//! `lvs_sync_daemon`: which of the sync daemons run. Without an instance of VRRP's both do; with one the master's while the
//! instance has its addresses, else the backup's.
//!
//! Who is master is seen from the addresses: keepalived puts them on the machine when the instance becomes MASTER, and
//! takes them away when it is BACKUP or in FAULT. That needs no word between the two programs, and is as true for an agent
//! that has just started.

use std::collections::HashSet;
use std::net::IpAddr;

use super::config::model::{Config, SyncDaemon};
use crate::control::model::{DaemonRow, Port, Role};
use crate::control::request::Request;

/// The roles this machine has, by its addresses; none without `lvs_sync_daemon`.
pub fn wanted(config: &Config, own: &HashSet<IpAddr>) -> Vec<Role> {
    let Some(daemon) = &config.globals.sync else { return Vec::new() };
    match &daemon.instance {
        None => vec![Role::Master, Role::Backup],
        Some(name) => {
            let instance = config.instances.get(name);
            let here = instance.is_some_and(|found| found.addresses.iter().any(|addr| own.contains(addr)));
            vec![if here { Role::Master } else { Role::Backup }]
        }
    }
}

/// What has to be done for these roles and no other to run. One that runs with other settings is started anew.
pub fn changes(wanted: Option<&(SyncDaemon, Vec<Role>)>, now: &[DaemonRow]) -> Vec<Request> {
    let rows = wanted.iter().flat_map(|(daemon, roles)| roles.iter().map(|role| row(daemon, *role)));
    let rows: Vec<DaemonRow> = rows.collect();
    let stop = now.iter().filter(|now| !rows.iter().any(|row| is_same(now, row)));
    let stop = stop.map(|now| Request::StopDaemon { role: now.role, syncid: now.syncid });
    let start = rows.iter().filter(|row| !now.iter().any(|now| is_same(now, row)));
    stop.chain(start.map(|row| Request::StartDaemon(row.clone()))).collect()
}

fn row(daemon: &SyncDaemon, role: Role) -> DaemonRow {
    DaemonRow {
        role,
        interface: daemon.interface.clone(),
        syncid: daemon.id.unwrap_or(0),
        maxlen: daemon.maxlen,
        group: daemon.group,
        port: Port::new(daemon.port),
        ttl: daemon.ttl,
        resync: daemon.resync.clone(),
    }
}

/// A running daemon tells the length it has found out, where none was asked for.
fn is_same(now: &DaemonRow, wanted: &DaemonRow) -> bool {
    let maxlen = if wanted.maxlen == 0 { now.maxlen } else { wanted.maxlen };
    *now == DaemonRow { maxlen, ..wanted.clone() }
}

#[cfg(test)]
mod tests {
    use super::super::config;
    use super::*;
    use crate::cli::save::request_line;
    use crate::control::model::Resync;
    use std::fs;

    const CONFIG: &str = "
global_defs {
  lvs_sync_daemon eth1 VI_1 id 7
}
vrrp_instance VI_1 {
  interface eth0
  virtual_ipaddress {
    192.0.2.1/24 dev eth0
  }
  virtual_ipaddress_excluded {
    2001:db8::1
  }
}
virtual_server 192.0.2.1 80 {
  protocol TCP
  lb_algo mh
  lb_kind DR
  real_server 10.0.0.1 80 { }
}
";

    fn read(text: &str) -> Option<Config> {
        let dir = tempfile::tempdir().ok()?;
        let file = dir.path().join("k.conf");
        fs::write(&file, text).ok()?;
        Some(config::load(&file, "h").config)
    }

    fn roles(text: &str, own: &[&str]) -> Vec<Role> {
        let own = own.iter().filter_map(|addr| addr.parse().ok()).collect();
        read(text).map(|config| wanted(&config, &own)).unwrap_or_default()
    }

    #[test]
    fn the_one_with_the_address_is_master() {
        assert_eq!(roles(CONFIG, &["10.0.0.2"]), [Role::Backup]);
        assert_eq!(roles(CONFIG, &["10.0.0.2", "192.0.2.1"]), [Role::Master]);
        assert_eq!(roles(CONFIG, &["2001:db8::1"]), [Role::Master]);
        assert_eq!(
            roles(&CONFIG.replace("daemon eth1 VI_1", "daemon eth1 VI_2"), &["192.0.2.1"]),
            [Role::Backup]
        );
        let both = CONFIG.replace("daemon eth1 VI_1", "daemon eth1");
        assert_eq!(roles(&both, &[]), [Role::Master, Role::Backup]);
        assert_eq!(roles(&CONFIG.replace("lvs_sync_daemon", "router_id"), &["192.0.2.1"]), []);
    }

    fn first_row(text: &str) -> Option<DaemonRow> {
        let config = read(text)?;
        Some(row(config.globals.sync.as_ref()?, Role::Backup))
    }

    #[test]
    fn the_number_is_the_instances_where_none_is_said() {
        let numbered = CONFIG.replace("interface eth0", "interface eth0\n  virtual_router_id 51");
        let syncid = |text: &str| first_row(text).map(|row| row.syncid);
        assert_eq!(syncid(&numbered), Some(7));
        assert_eq!(syncid(&numbered.replace(" id 7", "")), Some(51));
        assert_eq!(syncid(&numbered.replace("eth1 VI_1 id 7", "eth1")), Some(0));
    }

    #[test]
    fn full_resync_is_part_of_the_line() {
        let words = |words: &str| CONFIG.replace("id 7", words);
        let resync = |text: &str| first_row(&words(text)).and_then(|row| row.resync);
        let usual = Resync { key: "/etc/key".into(), port: Resync::PORT, peer: None };
        assert_eq!(resync("id 7 resync_key /etc/key"), Some(usual.clone()));
        let all = "resync_peer fd00::1 id 7 resync_port 9000 resync_key /etc/key";
        assert_eq!(resync(all), Some(Resync { port: 9000, peer: "fd00::1".parse().ok(), ..usual }));
        // Without an absolute path there is none, and it is said.
        for wrong in ["resync_key", "resync_key key", "resync_port 9000", "resync_key /etc/key resync_port 0"]
        {
            let dir = tempfile::tempdir().expect("a directory");
            let file = dir.path().join("k.conf");
            fs::write(&file, words(wrong)).expect("a file");
            let problems = config::load(&file, "h").problems;
            assert!(problems.iter().any(|problem| problem.text.starts_with("lvs_sync_daemon: ")), "{wrong}");
        }
    }

    #[test]
    fn another_key_is_another_daemon() {
        let Some(daemon) = read(CONFIG).and_then(|config| config.globals.sync) else { panic!("no daemon") };
        let running = [DaemonRow { maxlen: 1472, ..row(&daemon, Role::Backup) }];
        let resync = Some(Resync { key: "/etc/key".into(), port: Resync::PORT, peer: None });
        let wanted = (SyncDaemon { resync, ..daemon }, vec![Role::Backup]);
        assert_eq!(changes(Some(&wanted), &running).len(), 2);
    }

    #[test]
    fn only_what_differs_is_stopped_and_started() {
        let Some(daemon) = read(CONFIG).and_then(|config| config.globals.sync) else { panic!("no daemon") };
        let lines = |roles: &[Role], now: &[DaemonRow]| -> Vec<String> {
            changes(Some(&(daemon.clone(), roles.to_vec())), now).iter().map(request_line).collect()
        };
        let running = DaemonRow { maxlen: 1472, ..row(&daemon, Role::Backup) };
        let now = [running];
        assert_eq!(lines(&[Role::Backup], &now), Vec::<String>::new());
        let said = lines(&[Role::Master], &now);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("ipvsadm --stop-daemon backup"), "{said:?}");
        assert!(said[1].starts_with("ipvsadm --start-daemon master"), "{said:?}");
        assert_eq!(changes(None, &now).len(), 1);
    }
}
