//! Statements into meaning. What keepalived would pass over with a message is a warning here; what would make it drop a
//! whole block is an error, for a reload must not lose a server to a slip of the pen.

mod check;
mod globals;
mod group;
mod http;
mod path;
mod script;
mod server;
mod service;
mod timing;
mod values;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use super::model::{Config, Globals, Instance, Tls};
use super::problem::{Place, Problems, Severity};
use super::tree::Statement;
use group::Group;
use script::Users;

/// Blocks that are keepalived's own business.
const OTHERS: [&str; 16] = [
    "static_ipaddress",
    "static_routes",
    "static_rules",
    "static_track_group",
    "vrrp_script",
    "vrrp_track_process",
    "vrrp_track_file",
    "track_process",
    "vrrp_sync_group",
    "vrrp_instance",
    "garp_group",
    "linkbeat_interfaces",
    "interface_up_down_delays",
    "bfd_instance",
    "process_names",
    "track_bfd",
];
/// Top-level lines that are.
const OTHER_LINES: [&str; 8] = [
    "net_namespace",
    "net_namespace_ipvs",
    "namespace_with_ipsets",
    "instance",
    "use_pid_dir",
    "child_wait_time",
    "linkbeat_use_polling",
    "config_save_dir",
];

/// A `track_file` block.
#[derive(Clone, Debug)]
struct TrackFile {
    file: PathBuf,
    weight: i32,
}

/// What is known so far.
struct Reader<'p> {
    problems: &'p mut Problems,
    globals: Globals,
    users: Users,
    groups: HashMap<String, Group>,
    files: HashMap<String, TrackFile>,
    bfd: Vec<String>,
    instances: HashMap<String, Instance>,
    ssl: Tls,
}

/// The whole configuration.
pub fn config(tree: &[Statement], problems: &mut Problems) -> Config {
    let mut reader = Reader {
        problems,
        globals: Globals::default(),
        users: Users::default(),
        groups: HashMap::new(),
        files: HashMap::new(),
        bfd: Vec::new(),
        instances: HashMap::new(),
        ssl: Tls::default(),
    };
    // What others refer to comes first, wherever it stands.
    for statement in tree {
        reader.referred_to(statement);
    }
    let mut servers = Vec::new();
    for statement in tree.iter().filter(|statement| statement.keyword() == "virtual_server") {
        servers.extend(reader.virtual_server(statement));
    }
    reader.same_services(&servers);
    reader.instance_of_sync();
    Config { globals: reader.globals, instances: reader.instances, servers }
}

impl Reader<'_> {
    fn referred_to(&mut self, statement: &Statement) {
        match statement.keyword() {
            "virtual_server" => {}
            "global_defs" => {
                let block = self.block(statement);
                self.globals(block);
            }
            "virtual_server_group" => self.group(statement),
            "track_file" => self.track_file(statement),
            "SSL" => self.ssl(statement),
            keyword if OTHERS.contains(&keyword) => {
                if keyword == "bfd_instance" {
                    self.bfd.extend(statement.word(1).map(str::to_owned));
                }
                if keyword == "vrrp_instance" {
                    self.instance(statement);
                }
                let what = statement.raw.clone();
                self.note(statement, format!("`{what}` is left to keepalived"));
            }
            keyword if OTHER_LINES.contains(&keyword) => {
                self.note(statement, format!("`{keyword}` is left to keepalived"));
            }
            _ => self.unknown(statement),
        }
    }

    /// Of a vrrp_instance its addresses matter here: whether the machine has them says who is master.
    fn instance(&mut self, statement: &Statement) {
        let mut found = Instance::default();
        for line in statement.block.iter().flatten() {
            match line.keyword() {
                "virtual_ipaddress" | "virtual_ipaddress_excluded" => {
                    let lines = line.block.iter().flatten();
                    found.addresses.extend(lines.filter_map(|line| {
                        line.keyword().split('/').next().and_then(|addr| addr.parse::<IpAddr>().ok())
                    }));
                }
                "virtual_router_id" => found.router = line.word(1).and_then(|word| word.parse().ok()),
                "lvs_sync_daemon_interface" => {
                    self.note(line, "obsolete: use `lvs_sync_daemon` in global_defs");
                }
                _ => {}
            }
        }
        self.instances.extend(statement.word(1).map(|name| (name.to_owned(), found)));
    }

    /// `lvs_sync_daemon` may name one of them, and is of its number then.
    fn instance_of_sync(&mut self) {
        let Some(daemon) = &mut self.globals.sync else { return };
        let Some(name) = &daemon.instance else { return };
        let instance = self.instances.get(name);
        daemon.id = daemon.id.or(instance.and_then(|instance| instance.router));
        if instance.is_none_or(|instance| instance.addresses.is_empty()) {
            let text = format!("lvs_sync_daemon: no vrrp_instance {name} with addresses here: always backup");
            self.problems.warn(&daemon.place, text);
        }
    }

    /// The statements of a block; a missing one is said.
    fn block<'s>(&mut self, statement: &'s Statement) -> &'s [Statement] {
        match &statement.block {
            Some(block) => block,
            None => {
                self.warn(statement, format!("`{}`: a block in braces is wanted", statement.keyword()));
                &[]
            }
        }
    }

    /// A keyword that is none, with whatever block it has.
    fn unknown(&mut self, statement: &Statement) {
        let keyword = statement.keyword();
        let advice = advice(keyword).map(|advice| format!(": {advice}")).unwrap_or_default();
        let block = if statement.block.is_some() { " (its block is passed over)" } else { "" };
        self.warn(statement, format!("Unknown keyword '{keyword}'{block}{advice}"));
    }

    fn error(&mut self, statement: &Statement, text: impl Into<String>) {
        self.problems.error(&statement.place, text);
    }
    fn warn(&mut self, statement: &Statement, text: impl Into<String>) {
        self.problems.warn(&statement.place, text);
    }
    fn note(&mut self, statement: &Statement, text: impl Into<String>) {
        self.problems.note(&statement.place, text);
    }
    fn insecure(&mut self, place: &Place, text: impl Into<String>) {
        self.problems.add(place, Severity::Security, text);
    }
}

/// What people who write this word mean.
fn advice(keyword: &str) -> Option<&'static str> {
    match keyword {
        "nb_get_retry" => Some("`retry` is meant; as it stands, retry keeps its default"),
        "nat_mask" | "net_mask" => Some("masks of NAT services are long gone"),
        "lvs_id" => Some("`router_id` took its place"),
        "script" => Some("a MISC_CHECK with misc_path is meant"),
        word if word.starts_with("//") => Some("comments start with # or !"),
        _ => None,
    }
}
