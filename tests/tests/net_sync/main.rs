//! Two balancers of ours, one of which tells the other of its connections.

mod daemons;
mod moves;
mod told;
mod whole;

lb_tests::tests! {
    daemons_start_and_stop,
    a_killed_daemon_does_not_run,
    only_the_interface_is_heard,
    damaged_messages_are_counted,
    connections_survive_nat,
    connections_survive_direct_routing,
    templates_and_datagrams,
    a_server_may_come_later,
    a_backup_leaves_clients_alone,
    a_late_backup_gets_everything,
    a_large_table_in_seconds,
}

use daemons::{
    a_killed_daemon_does_not_run, daemons_start_and_stop, damaged_messages_are_counted,
    only_the_interface_is_heard,
};
use moves::{connections_survive_direct_routing, connections_survive_nat};
use told::{a_backup_leaves_clients_alone, a_server_may_come_later, templates_and_datagrams};

use whole::{a_large_table_in_seconds, a_late_backup_gets_everything};

use anyhow::Result;
use lb_tests::lab::Lab;
use lb_tests::run;
use lb_tests::topo::Pair;
use std::time::Duration;

/// For what is told within a few seconds: a look, and the other side's.
const SOON: Duration = Duration::from_secs(15);

/// Both balancers' prompts, attached, the first as master and the second as backup.
fn synced(pair: &Pair, rules: &str) -> Result<[Lab; 2]> {
    let [first, second] = pair.balancers();
    let labs = [Lab::at(&first.netns)?, Lab::at(&second.netns)?];
    let nics = ["eth0", "eth1"][..pair.nics()].join(" ");
    for (lab, role) in labs.iter().zip(["master", "backup"]) {
        lab.ok(&format!("lb-user attach {nics} --connections 4096\n{rules}"))?;
        lab.ok(&format!("ipvsadm --start-daemon {role} --mcast-interface eth0 --syncid 7"))?;
    }
    Ok(labs)
}

/// Rows of `-Lnc`, without the time that is left, sorted.
fn connections(lab: &Lab) -> Result<Vec<String>> {
    let listing = lab.ok("ipvsadm -Lnc")?;
    let rows = listing.lines().skip(2).map(|row| {
        let words: Vec<&str> = row.split_whitespace().collect();
        [&words[..1], words.get(2..).unwrap_or_default()].concat().join(" ")
    });
    let mut rows: Vec<String> = rows.collect();
    rows.sort();
    Ok(rows)
}

/// Waits until the backup lists what the master lists, and so many rows of it.
fn agree(labs: &[Lab; 2], count: usize) -> Result<Vec<String>> {
    let mut last = Default::default();
    let found = run::until(SOON, "the same connections on both", || {
        let both = (connections(&labs[0]).ok()?, connections(&labs[1]).ok()?);
        let same = both.0 == both.1 && both.0.len() == count;
        last = both;
        same.then(|| last.0.clone())
    });
    found.map_err(|error| error.context(format!("{count} rows wanted: {last:#?}")))
}
