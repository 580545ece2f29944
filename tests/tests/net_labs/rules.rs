//! Rules without traffic: clearing, saving to a file, restoring from it.

use anyhow::{Result, ensure};
use lb_tests::lab::Lab;
use lb_tests::listing::{self, exact};
use lb_tests::need;
use lb_tests::net::Netns;

const RULES: &str = "ipvsadm -A -t 192.168.26.200:80 -s rr
    ipvsadm -a -t 192.168.26.200:80 -r 192.168.26.153:80 -m -w 2
    ipvsadm -a -t 192.168.26.200:80 -r 192.168.26.154:80 -m -w 2
    ipvsadm -A -t 192.168.241.11:80 -s wrr -p 20
    ipvsadm -a -t 192.168.241.11:80 -r 192.168.241.15:80 -g -w 1
    ipvsadm -A -u 192.168.1.100:30005 -s rr
    ipvsadm -a -u 192.168.1.100:30005 -r 192.168.1.11:30005 -i -w 1
    ipvsadm -A -t [fd00::1]:80 -s wlc
    ipvsadm -a -t [fd00::1]:80 -r [fd00::2]:8080 -m";

const SAVED: &str = "-A -t 192.168.26.200:80 -s rr
-a -t 192.168.26.200:80 -r 192.168.26.153:80 -m -w 2
-a -t 192.168.26.200:80 -r 192.168.26.154:80 -m -w 2
-A -t 192.168.241.11:80 -s wrr -p 20
-a -t 192.168.241.11:80 -r 192.168.241.15:80 -g -w 1
-A -u 192.168.1.100:30005 -s rr
-a -u 192.168.1.100:30005 -r 192.168.1.11:30005 -i -w 1 --tun-type ipip
-A -t [fd00::1]:80 -s wlc
-a -t [fd00::1]:80 -r [fd00::2]:8080 -m -w 1
";

fn listed() -> String {
    exact(
        "TCP  192.168.26.200:80 rr
  -> 192.168.26.153:80            Masq    2      0          0·········
  -> 192.168.26.154:80            Masq    2      0          0·········
TCP  192.168.241.11:80 wrr persistent 20
  -> 192.168.241.15:80            Route   1      0          0·········
UDP  192.168.1.100:30005 rr
  -> 192.168.1.11:30005           Tunnel  1      0          0·········
TCP  [fd00::1]:80 wlc
  -> [fd00::2]:8080               Masq    1      0          0·········
",
    )
}

pub fn clear_lab() -> Result<()> {
    need::root()?;
    let host = Netns::new("host")?;
    let lab = Lab::at(&host)?;
    lab.lists(listing::TITLE)?;
    lab.quiet(RULES)?;
    lab.lists(&listed())?;
    lab.quiet("ipvsadm -C")?;
    lab.lists(listing::TITLE)
}

pub fn save_and_restore_lab() -> Result<()> {
    need::root()?;
    let host = Netns::new("host")?;
    let lab = Lab::at(&host)?;
    lab.quiet(RULES)?;
    lab.quiet("ipvsadm -Sn > /etc/sysconfig/ipvsadm")?;
    ensure!(lab.ok("cat /etc/sysconfig/ipvsadm")? == SAVED);
    lab.shows("ipvsadm-save -n", SAVED)?;
    for restore in ["ipvsadm-restore < /etc/sysconfig/ipvsadm", "ipvsadm -R < /etc/sysconfig/ipvsadm"] {
        lab.quiet("ipvsadm -C")?;
        lab.quiet(restore)?;
        lab.lists(&listed())?;
    }
    // The restore script starts from an empty table, so a second time changes nothing; -R adds to what is there.
    lab.quiet("ipvsadm-restore < /etc/sysconfig/ipvsadm")?;
    lab.lists(&listed())?;
    lab.refuses("ipvsadm -R < /etc/sysconfig/ipvsadm", 255, &refusals())
}

/// One line for each rule that is there already.
fn refusals() -> String {
    let refusal = |rule: &str| match rule.starts_with("-A") {
        true => "Service already exists\n",
        false => "Destination already exists\n",
    };
    SAVED.lines().map(refusal).collect()
}
