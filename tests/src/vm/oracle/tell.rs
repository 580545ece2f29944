//! What a master tells others: heard at the far end of a card of its own.

use super::case::Case;
use super::side::Side;
use anyhow::{Context, Result, bail};
use lb_common::addr::{Port, Proto};
use lb_common::sync::flags;
use lb_user::sync::wire::{self, Record};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

/// Kernel IPVS sends what is due within two to three seconds, ours within one.
const SOON: Duration = Duration::from_millis(4200);
const SYNCID: u8 = 7;
/// UDP port of the group.
const PORT: [u8; 2] = 8848_u16.to_be_bytes();

impl Side {
    /// Starts the master (`on`), or stops it (`off`).
    pub fn master(&mut self, word: &str) -> Result<()> {
        let line = match word {
            "on" => {
                self.open_ear()?;
                format!("ipvsadm --start-daemon master --mcast-interface tell --syncid {SYNCID}")
            }
            "off" => "ipvsadm --stop-daemon master".to_owned(),
            _ => bail!("master on, or master off"),
        };
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        self.ipvsadm(&words, "")?.ok().map(drop)
    }

    /// Which of the case's connections the master has told of since this was asked last, in the order of clients; `count`: and how
    /// often. Of others' connections ours tells too, when it starts.
    pub fn told(&self, case: &Case, count: bool) -> Result<String> {
        thread::sleep(SOON);
        let ear = self.ear.as_ref().context("there is no master")?;
        let mut told: BTreeMap<String, u32> = BTreeMap::new();
        while let Some(frame) = ear.receive() {
            let Some(message) = payload(&frame) else { continue };
            let message = wire::read(message, SYNCID).map_err(|fault| anyhow::anyhow!("{fault:?}"))?;
            for line in message.records.iter().map(line).filter(|line| case.owns(line)) {
                *told.entry(line).or_default() += 1;
            }
        }
        let mut said = String::new();
        for (line, times) in told {
            if count { writeln!(said, "{line} {times} times")? } else { writeln!(said, "{line}")? }
        }
        if said.is_empty() {
            said.push_str("nothing\n");
        }
        Ok(said)
    }
}

/// The datagram's content, if it is one of the group's.
fn payload(frame: &[u8]) -> Option<&[u8]> {
    let (head, ip) = frame.split_at_checked(14)?;
    let udp = ip.get(usize::from(ip.first()? & 15) * 4..)?;
    (head.ends_with(&[8, 0]) && ip.get(9) == Some(&17) && udp.get(2..4)? == PORT).then(|| udp.get(8..))?
}

fn line(record: &Record) -> String {
    let Record { proto, state, client, virt, dest, timeout, .. } = record;
    let proto = match *proto {
        Proto::TCP => "TCP",
        Proto::UDP => "UDP",
        Proto::SCTP => "SCTP",
        _ => "IP",
    };
    let what = if record.flags & flags::TEMPLATE != 0 { "template" } else { "connection" };
    let end = |(address, port): &(IpAddr, Port)| SocketAddr::new(*address, port.host());
    format!("{proto} {what} {} > {} > {} state {state} timeout {timeout}", end(client), end(virt), end(dest))
}
