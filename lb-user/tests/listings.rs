//! Listings byte for byte. `·` stands for a blank at the end of a line.

#![allow(clippy::unwrap_used, reason = "a failing test should say so where it happens")]

mod common;

use common::{Desk, assert_same, dest, end, golden, service};
use lb_user::control::model::{ConnRow, Engine, Proto, Rates, Stats};
use lb_user::control::store::Store as _;

/// The table of the reference's examples.
fn example() -> Desk {
    let mut desk = Desk::new();
    desk.restore(
        "-A -t 192.168.0.1:80 -s rr\n\
         -a -t 192.168.0.1:80 -r 192.168.5.1:80 -g -x 100 -y 50\n\
         -a -t 192.168.0.1:80 -r 10.0.0.1:8080 -m -w 5\n\
         -A -t 10.0.0.1:443 -s sh -b sh-port,sh-fallback -p 300 -M 255.255.255.0\n\
         -A -u 10.0.0.1:5060 -s rr -p 60 --pe sip -o\n\
         -A -t [2001:db8::1]:80 -p -M 64\n\
         -a -t [2001:db8::1]:80 -r [2001:db8:1111:2222:3333:4444:5555:6666]:80 -m\n\
         -A -f 2 -6 -s mh -b mh-port\n",
    );
    for service in desk.balancer.store().services().unwrap() {
        for dest in &service.dests {
            let dest = desk.balancer.store_mut().dest_mut(&service.id, &dest.id).unwrap();
            (dest.active, dest.inactive, dest.persistent) = (3, 7, 2);
        }
    }
    desk
}

fn expect(desk: &mut Desk, line: &str, expected: &str) {
    assert_same(line, &desk.ok(line), &expected.replace('·', " "));
}

#[test]
fn the_table() {
    expect(
        &mut example(),
        "ipvsadm -Ln",
        "IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  192.168.0.1:80 rr
  -> 192.168.5.1:80               Route   1      3          7·········
  -> 10.0.0.1:8080                Masq    5      3          7·········
TCP  10.0.0.1:443 sh (sh-fallback,sh-port) persistent 300 mask 255.255.255.0
UDP  10.0.0.1:5060 rr persistent 60 pe sip ops
TCP  [2001:db8::1]:80 wlc persistent 360 mask 64
  -> [2001:db8:1111:2222:3333:4444:5555:6666]:80 Masq    1      3          7·········
FWM  2 IPv6 mh (mh-port)
",
    );
}

#[test]
fn one_service_has_no_version_line() {
    expect(
        &mut example(),
        "ipvsadm -L -n -t 10.0.0.1:443",
        "Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.0.0.1:443 sh (sh-fallback,sh-port) persistent 300 mask 255.255.255.0
",
    );
}

#[test]
fn counters() {
    let mut desk = example();
    let web = service(Proto::TCP, "192.168.0.1", 80);
    let store = desk.balancer.store_mut();
    store.service_mut(&web).unwrap().stats =
        Stats { conns: 5, inpkts: 123_456_789, outpkts: 0, inbytes: 1_234_567_890_123, outbytes: 99_999_999 };
    store.dest_mut(&web, &dest("192.168.5.1", 80)).unwrap().stats =
        Stats { conns: 1_234_567_890, ..Stats::default() };
    store.delete_dest(&web, &dest("10.0.0.1", 8080)).unwrap();
    expect(
        &mut desk,
        "ipvsadm -L -n --stats -t 192.168.0.1:80",
        "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  192.168.0.1:80                      5  123456K        0    1234G 99999999
  -> 192.168.5.1:80                  1234M        0        0        0        0
",
    );
    expect(
        &mut desk,
        "ipvsadm -L -n --stats --exact -t 192.168.0.1:80",
        "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  192.168.0.1:80                      5 123456789        0 1234567890123 99999999
  -> 192.168.5.1:80               1234567890        0        0        0        0
",
    );
    desk.ok("ipvsadm -Z -t 192.168.0.1:80");
    expect(
        &mut desk,
        "ipvsadm -L -n --stats --rate -t 192.168.0.1:80",
        "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  192.168.0.1:80                      0        0        0        0        0
  -> 192.168.5.1:80                      0        0        0        0        0
",
    );
}

#[test]
fn rates() {
    let mut desk = example();
    let web = service(Proto::TCP, "192.168.0.1", 80);
    let store = desk.balancer.store_mut();
    store.service_mut(&web).unwrap().rates = Rates { inbps: 100_000_000, ..Rates::default() };
    // Connections and packets of dests are never shortened; bytes are.
    store.dest_mut(&web, &dest("192.168.5.1", 80)).unwrap().rates =
        Rates { cps: 12, inbps: 123_456_789, ..Rates::default() };
    store.dest_mut(&web, &dest("10.0.0.1", 8080)).unwrap().rates =
        Rates { inpps: 123_456_789, ..Rates::default() };
    expect(
        &mut desk,
        "ipvsadm -L -n --rate -t 192.168.0.1:80",
        "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS
  -> RemoteAddress:Port
TCP  192.168.0.1:80                      0        0        0  100000K        0
  -> 192.168.5.1:80                     12        0        0  123456K        0
  -> 10.0.0.1:8080                       0 123456789        0        0        0
",
    );
}

#[test]
fn thresholds_and_persistent_conns() {
    let mut desk = example();
    expect(
        &mut desk,
        "ipvsadm -L -n --thresholds -t 192.168.0.1:80",
        "Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn·
  -> RemoteAddress:Port
TCP  192.168.0.1:80 rr
  -> 192.168.5.1:80               100        50         3          7·········
  -> 10.0.0.1:8080                0          0          3          7·········
",
    );
    expect(
        &mut desk,
        "ipvsadm -L -n --persistent-conn -t 192.168.0.1:80",
        "Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn·
  -> RemoteAddress:Port
TCP  192.168.0.1:80 rr
  -> 192.168.5.1:80               1         2           3          7·········
  -> 10.0.0.1:8080                5         2           3          7·········
",
    );
}

#[test]
fn tunnels() {
    let mut desk = Desk::new();
    desk.restore(
        "-A -t 192.168.0.1:80 -s rr\n\
         -a -t 192.168.0.1:80 -r 192.168.5.1 -i\n\
         -a -t 192.168.0.1:80 -r 192.168.5.2 -i --tun-type gue --tun-port 6080 --tun-remcsum\n\
         -a -t 192.168.0.1:80 -r 192.168.5.3 -i --tun-type gre --tun-csum\n\
         -a -t 192.168.0.1:80 -r 192.168.5.4 -i --tun-type gre\n\
         -a -t 192.168.0.1:80 -r 10.0.0.1:8080 -m -w 5\n",
    );
    expect(
        &mut desk,
        "ipvsadm -L -n --tun-info",
        "IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn
TCP  192.168.0.1:80 rr
  -> 192.168.5.1:80               Tunnel  ipip          1      0          0·········
  -> 192.168.5.2:80               Tunnel  gue:6080:r+c  1      0          0·········
  -> 192.168.5.3:80               Tunnel  gre:+c        1      0          0·········
  -> 192.168.5.4:80               Tunnel  gre:-c        1      0          0·········
  -> 10.0.0.1:8080                Masq    n/a           5      0          0·········
",
    );
}

#[test]
fn names_and_their_limits() {
    let mut desk = Desk::new();
    desk.restore(
        "-A -t 192.0.2.80:80\n\
         -a -t 192.0.2.80:80 -r 192.0.2.81:443 -m\n\
         -A -t 192.0.2.81:443\n\
         -A -t [2001:db8::80]:80\n\
         -a -t [2001:db8::80]:80 -r [2001:db8::80]:80\n\
         -A -f 4294967295\n\
         -a -f 4294967295 -r 192.0.2.80:80 -m\n",
    );
    expect(
        &mut desk,
        "ipvsadm -L",
        "IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
FWM  -1 wlc
  -> web:80                       Masq    1      0          0·········
TCP  web:http wlc
  -> a-name-longer-than-the-colum Masq    1      0          0·········
TCP  a-name-longer-than-the-colum wlc
TCP  [six.example]:http wlc
  -> [six.example]:http           Route   1      0          0·········
",
    );
}

#[test]
fn odd_flags() {
    let mut desk = Desk::new();
    desk.restore(
        "-A -t 10.0.0.1:1 -s sh -b flag-3\n\
         -A -t 10.0.0.1:2 -s rr -b flag-3,flag-1\n\
         -A -u 10.0.0.1:3 -s none -o --pe sip\n\
         -A --sctp-service 10.0.0.9:2905 -s rr\n",
    );
    expect(
        &mut desk,
        "ipvsadm -Ln",
        "IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.0.0.1:1 sh ()
TCP  10.0.0.1:2 rr (flag-1,flag-3)
UDP  10.0.0.1:3 none ops
SCTP 10.0.0.9:2905 rr
",
    );
    expect(
        &mut desk,
        "ipvsadm -S -n",
        "-A -t 10.0.0.1:1 -s sh -b·
-A -t 10.0.0.1:2 -s rr -b flag-1,flag-3
-A -u 10.0.0.1:3 -s none --pe sip -o
-A --sctp-service 10.0.0.9:2905 -s rr
",
    );
}

#[test]
fn sorted_or_as_they_come() {
    let mut desk = Desk::new();
    desk.restore(
        "-A -f 1\n\
         -A -t 10.0.0.2:80\n\
         -A -t 10.0.0.1:80\n\
         -a -t 10.0.0.1:80 -r 10.1.0.1\n\
         -a -t 10.0.0.1:80 -r 10.1.0.3\n\
         -a -t 10.0.0.1:80 -r 10.1.0.2\n",
    );
    let column = |text: String| -> Vec<String> {
        text.lines()
            .skip(3)
            .map(|line| line.split_whitespace().nth(1).unwrap_or_default().to_owned())
            .collect()
    };
    let sorted = ["10.0.0.1:80", "10.1.0.1:80", "10.1.0.2:80", "10.1.0.3:80", "10.0.0.2:80", "1"];
    assert_eq!(column(desk.ok("ipvsadm -Ln")), sorted);
    assert_eq!(column(desk.ok("ipvsadm -Ln --sort")), sorted);
    let dumped = ["10.0.0.2:80", "10.0.0.1:80", "10.1.0.2:80", "10.1.0.3:80", "10.1.0.1:80", "1"];
    assert_eq!(column(desk.ok("ipvsadm -Ln --nosort")), dumped);
}

#[test]
fn empty_table() {
    let titles = "IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
";
    for line in ["ipvsadm", "ipvsadm -L", "ipvsadm -l", "ipvsadm -ln", "ipvsadm --list --syncid 7"] {
        expect(&mut Desk::new(), line, titles);
    }
    expect(&mut Desk::new(), "ipvsadm -S", "");
    expect(&mut Desk::new(), "ipvsadm -L --daemon", "");
}

#[test]
fn timeouts_and_daemons() {
    let mut desk = Desk::new();
    expect(&mut desk, "ipvsadm -L --timeout", "Timeout (tcp tcpfin udp): 900 120 300\n");
    desk.ok("ipvsadm --set 100 0 7");
    expect(&mut desk, "ipvsadm -L --timeout", "Timeout (tcp tcpfin udp): 100 120 7\n");
    desk.balancer.store_mut().nics.extend(["eth0".to_owned(), "eth1".to_owned()]);
    desk.ok("ipvsadm --start-daemon backup --mcast-group ff02::81 --mcast-port 9000 --mcast-ttl 3");
    desk.ok("ipvsadm --start-daemon master --mcast-interface eth1 --syncid 7");
    expect(
        &mut desk,
        "ipvsadm -L --daemon",
        "master sync daemon (mcast=eth1, syncid=7, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)
backup sync daemon (mcast=eth0, syncid=0, maxlen=1452, group=ff02::81, port=9000, ttl=3)
",
    );
}

fn conn(proto: Proto, expires: u64, state: &'static str, ends: [common::EndText; 3]) -> ConnRow {
    let [client, virt, dest] = ends.map(|(addr, port)| end(addr, port));
    ConnRow { proto, expires, state, client, virt, dest, engine: None }
}

#[test]
fn connections() {
    let mut desk = Desk::new();
    let (client, dest) = (("203.0.113.7", 40000), ("10.0.0.1", 8080));
    let web = ("192.168.0.1", 80);
    let mut call =
        conn(Proto::UDP, 60, "UDP", [("203.0.113.7", 5060), ("192.168.0.1", 5060), ("10.0.0.1", 5060)]);
    call.engine = Some((Engine::Sip, "1234@host".to_owned()));
    desk.balancer.store_mut().conns = vec![
        conn(Proto::TCP, 899, "ESTABLISHED", [client, web, dest]),
        conn(Proto::TCP, 359, "ASSURED", [("203.0.113.7", 0), web, dest]),
        conn(Proto::IP, 7, "NONE", [("203.0.113.7", 0), ("0.0.0.1", 0), ("10.0.0.1", 0)]),
        conn(Proto::SCTP, 6100, "C-SENT", [client, ("192.168.0.1", 2905), ("10.0.0.1", 2905)]),
        conn(Proto::TCP, 59, "SYN_RECV", [("2001:db8::9", 40000), ("2001:db8::1", 80), ("10.0.0.1", 80)]),
        call,
    ];
    expect(
        &mut desk,
        "ipvsadm -Lnc",
        "IPVS connection entries
pro expire state       source             virtual            destination
TCP 14:59  ESTABLISHED 203.0.113.7:40000  192.168.0.1:80     10.0.0.1:8080
TCP 05:59  ASSURED     203.0.113.7:0      192.168.0.1:80     10.0.0.1:8080
IP  00:07  NONE        203.0.113.7:0      0.0.0.1:0          10.0.0.1:0
SCTP 101:40 C-SENT      203.0.113.7:40000  192.168.0.1:2905   10.0.0.1:2905
TCP 00:59  SYN_RECV    [2001:db8::9]:40000 [2001:db8::1]:80   10.0.0.1:80
UDP 01:00  UDP         203.0.113.7:5060   192.168.0.1:5060   10.0.0.1:5060
",
    );
    desk.balancer.store_mut().conns.drain(1..5);
    expect(
        &mut desk,
        "ipvsadm -L -n -c --persistent-conn",
        "IPVS connection entries
pro expire state       source             virtual            destination        pe name          pe_data
TCP 14:59  ESTABLISHED 203.0.113.7:40000  192.168.0.1:80     10.0.0.1:8080
UDP 01:00  UDP         203.0.113.7:5060   192.168.0.1:5060   10.0.0.1:5060    sip                1234@host
",
    );
}

/// Commands and their output in a row, as the real program must answer too.
#[test]
fn sessions() {
    let (setup, cases) = golden("session.txt");
    assert!(setup.is_empty());
    let mut desk = Desk::new();
    for case in cases {
        let what = format!("session.txt:{}: {}", case.at, case.line);
        let outcome = desk.run(&case.line);
        assert_same(&what, &outcome.err, &case.err);
        assert_same(&what, &outcome.out, &case.out);
        assert_eq!(outcome.status, case.status, "{what}");
    }
}
