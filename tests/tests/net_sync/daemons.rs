//! The daemons themselves: commands, listings, what is heard and what is not.

use super::SOON;
use anyhow::{Context, Result, ensure};
use lb_tests::lab::Lab;
use lb_tests::net::Netns;
use lb_tests::{need, run};
use std::net::{SocketAddr, UdpSocket};

/// A balancer with two cables to another host: the namespaces of both.
fn two_cables() -> Result<(Netns, Netns)> {
    need::network()?;
    let (balancer, other) = (Netns::new("sync")?, Netns::new("sync-other")?);
    for (n, nic) in [(1, "eth0"), (2, "eth1")] {
        balancer.ip(&format!("link add {nic} type veth peer name {nic} netns {}", other.name()))?;
        for (netns, host) in [(&balancer, 1), (&other, 2)] {
            netns.ip(&format!("addr add 10.66.{n}.{host}/24 dev {nic}\nlink set {nic} up"))?;
        }
    }
    Ok((balancer, other))
}

pub fn daemons_start_and_stop() -> Result<()> {
    let (balancer, _other) = two_cables()?;
    let lab = Lab::at(&balancer)?;
    lab.shows("ipvsadm -L --daemon", "")?;
    lab.refuses("ipvsadm --stop-daemon master", 255, "No daemon is running\n")?;
    lab.refuses("ipvsadm --start-daemon master --mcast-interface eth9", 255, "No such device\n")?;
    lab.ok("ipvsadm --start-daemon backup --mcast-interface eth1")?;
    lab.ok("ipvsadm --start-daemon master --syncid 7 --sync-maxlen 1000 --mcast-group ff02::81 --mcast-port 9000 --mcast-ttl 3")?;
    lab.shows(
        "ipvsadm -L --daemon",
        "master sync daemon (mcast=eth0, syncid=7, maxlen=1000, group=ff02::81, port=9000, ttl=3)\n\
         backup sync daemon (mcast=eth1, syncid=0, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)\n",
    )?;
    lab.refuses("ipvsadm --start-daemon backup --mcast-interface eth0", 255, "Daemon has already run\n")?;
    // What it is told besides does not matter.
    lab.ok("ipvsadm --stop-daemon backup --syncid 9\nipvsadm --stop-daemon master")?;
    lab.shows("ipvsadm -L --daemon", "")?;
    // Longest messages go by the NIC, of a backup.
    balancer.ip("link set eth1 mtu 9000")?;
    lab.ok("ipvsadm --start-daemon backup --mcast-interface eth1\nipvsadm --start-daemon master --mcast-interface eth1")?;
    lab.shows(
        "ipvsadm -L --daemon",
        "master sync daemon (mcast=eth1, syncid=0, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)\n\
         backup sync daemon (mcast=eth1, syncid=0, maxlen=8972, group=224.0.0.81, port=8848, ttl=1)\n",
    )?;
    // With the tables go the daemons.
    lab.ok("ipvsadm -A -t 10.66.1.9:80\nlb-user detach --purge")?;
    lab.shows("ipvsadm -L --daemon", "")
}

pub fn a_killed_daemon_does_not_run() -> Result<()> {
    let (balancer, _other) = two_cables()?;
    let lab = Lab::at(&balancer)?;
    lab.ok("ipvsadm --start-daemon backup --mcast-interface eth1")?;
    let pid = pid(&lab)?;
    lab.ok(&format!("kill -9 {pid}"))?;
    lab.shows("ipvsadm -L --daemon", "")?;
    lab.refuses("ipvsadm --stop-daemon backup", 255, "No daemon is running\n")?;
    lab.ok("ipvsadm --start-daemon backup --mcast-interface eth0")?;
    lab.shows(
        "ipvsadm -L --daemon",
        "backup sync daemon (mcast=eth0, syncid=0, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)\n",
    )?;
    lab.ok("ipvsadm --stop-daemon backup")?;
    Ok(())
}

/// What `lb-user status` says of the backup.
fn backup(lab: &Lab) -> Result<serde_json::Value> {
    let status: serde_json::Value = serde_json::from_str(&lab.ok("lb-user status --json")?)?;
    Ok(status["sync"]["backup"].clone())
}

fn pid(lab: &Lab) -> Result<u64> {
    backup(lab)?["pid"].as_u64().context("the backup's process")
}

pub fn only_the_interface_is_heard() -> Result<()> {
    let (balancer, other) = two_cables()?;
    let lab = Lab::at(&balancer)?;
    lab.ok("ipvsadm -A -t 10.66.1.9:80\nipvsadm --start-daemon backup --mcast-interface eth0 --syncid 5")?;
    let message = |syncid: u8| [0, syncid, 0, 8, 0, 1, 0, 0];
    let send = |from: &str, to: &str, bytes: &[u8]| -> Result<()> {
        let to: SocketAddr = to.parse()?;
        other.enter(|| -> Result<()> {
            let socket = UdpSocket::bind((from, 0))?;
            let socket = socket2::Socket::from(socket);
            socket.set_multicast_if_v4(&from.parse()?)?;
            socket.send_to(bytes, &to.into())?;
            Ok(())
        })?
    };
    // By the other NIC, and to the balancer itself: nobody listens.
    send("10.66.2.2", "224.0.0.81:8848", &message(5))?;
    send("10.66.1.2", "10.66.1.1:8848", &message(5))?;
    for bytes in [&message(5)[..], &message(5)[..7], &message(4), &[], &[0, 5, 0, 4]] {
        send("10.66.1.2", "224.0.0.81:8848", bytes)?;
    }
    let mut last = serde_json::Value::Null;
    let heard = run::until(SOON, "what the backup has heard", || {
        last = backup(&lab).ok()?["counts"].clone();
        (last["faults"]["short"] == 1).then_some(())
    });
    heard.with_context(|| last.to_string())?;
    // The last one is a message of version 0 without records.
    let faults = &last["faults"];
    ensure!(last["messages"] == 2 && faults["length"] == 1 && faults["syncid"] == 1, "{last}");
    let text = lab.ok("lb-user status")?;
    ensure!(text.contains("sync backup on eth0") && text.contains("syncid 1"), "{text}");
    Ok(())
}

/// Messages damaged in every way, some hundreds of them: each is counted by what is wrong with it, the daemon goes on, and takes
/// a good one afterwards.
pub fn damaged_messages_are_counted() -> Result<()> {
    let (balancer, other) = two_cables()?;
    let lab = Lab::at(&balancer)?;
    lab.ok("lb-user attach eth0 --connections 1024")?;
    lab.ok("ipvsadm -A -t 10.66.1.9:80\nipvsadm -a -t 10.66.1.9:80 -r 10.66.1.2:80 -g")?;
    lab.ok("ipvsadm --start-daemon backup --mcast-interface eth0")?;
    let before = pid(&lab)?;
    let socket = other.enter(|| -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind("10.66.1.2:0")?;
        socket2::SockRef::from(&socket).set_multicast_if_v4(&[10, 66, 1, 2].into())?;
        socket.connect("224.0.0.81:8848")?;
        Ok(socket)
    })??;
    let good = established();
    // One byte another, for each byte; and the message cut, at each.
    let changed = (0..good.len()).flat_map(|at| {
        [0x00, 0x02, 0x7f, 0xff].map(|byte| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        })
    });
    let cut = (0..good.len()).map(|length| good[..length].to_vec());
    let all: Vec<Vec<u8>> = changed.chain(cut).collect();
    for bytes in &all {
        socket.send(bytes)?;
    }
    let sum = |counts: &serde_json::Value, names: &[&str]| -> u64 {
        names.iter().filter_map(|name| counts[*name].as_u64()).sum()
    };
    let mut last = serde_json::Value::Null;
    let heard = run::until(SOON, "an account of each message", || {
        last = backup(&lab).ok()?["counts"].clone();
        let unread = sum(&last["faults"], &["short", "length", "syncid"]);
        (sum(&last, &["messages"]) + unread == all.len() as u64).then_some(())
    });
    heard.with_context(|| format!("{} sent, {last}", all.len()))?;
    for fault in ["short", "length", "truncated", "unknown-record", "protocol", "state", "unwanted"] {
        ensure!(last["faults"][fault] != 0, "{fault}: {last}");
    }
    // Of a client nobody has spoken of so far.
    let mut fresh = good;
    fresh[32..36].copy_from_slice(&[172, 16, 0, 1]);
    socket.send(&fresh)?;
    run::until(SOON, "the good one", || {
        lab.ok("ipvsadm -Lnc").ok()?.contains("172.16.0.1:5000").then_some(())
    })?;
    ensure!(pid(&lab)? == before, "another process hears now");
    lab.ok("ipvsadm --stop-daemon backup").map(drop)
}

/// A message of version 1: an established connection of 192.0.2.1:5000's.
fn established() -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 44, 1, 1, 0, 0];
    bytes.extend([0, 6, 0, 36, 0, 0, 0x01, 0x03, 0, 1]);
    bytes.extend([5000_u16, 80, 80].map(u16::to_be_bytes).concat());
    bytes.extend([0; 4]);
    bytes.extend(900_u32.to_be_bytes());
    bytes.extend([[192, 0, 2, 1], [10, 66, 1, 9], [10, 66, 1, 2]].concat());
    bytes
}
