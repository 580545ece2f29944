//! Wrong command lines: exact text, exact status, nothing changed.

mod common;

use common::{Desk, assert_same, golden};

#[test]
fn wrong_command_lines() {
    let (setup, cases) = golden("refusals.txt");
    assert!(cases.len() >= 60);
    for case in cases {
        let mut desk = Desk::new();
        for line in &setup {
            desk.ok(line);
        }
        let before = desk.ok("ipvsadm -S -n");
        let outcome = desk.run(&case.line);
        let what = format!("refusals.txt:{}: {}", case.at, case.line);
        assert_same(&what, &outcome.err, &case.err);
        assert_eq!(outcome.status, case.status, "{what}");
        assert_same(&what, &outcome.out, &case.out);
        assert_same(&what, &desk.ok("ipvsadm -S -n"), &before);
    }
}

#[test]
fn what_the_packet_path_cannot_do_is_refused_last() {
    let mut desk = Desk::new();
    desk.ok("ipvsadm -A -t 10.0.0.1:80 -s rr");
    desk.balancer.store_mut().unsupported = Some(|_| Some("not yet".to_owned()));
    for (line, err, status) in [
        ("ipvsadm -A -t 10.0.0.1:80", "Service already exists\n", 255),
        ("ipvsadm -A -t 10.0.0.1:81", "not yet\n", 255),
        ("ipvsadm -a -t 10.0.0.1:80 -r 224.0.0.1", INVALID, 255),
        ("ipvsadm -a -t 10.0.0.1:80 -r 10.0.0.2", "not yet\n", 255),
        ("ipvsadm -C", "not yet\n", 255),
        ("ipvsadm --start-daemon master", "not yet\n", 255),
    ] {
        let outcome = desk.run(line);
        assert_eq!((outcome.err.as_str(), outcome.status), (err, status), "{line}");
    }
    assert_same("after", &desk.ok("ipvsadm -S -n"), "-A -t 10.0.0.1:80 -s rr\n");
}

const INVALID: &str = "Invalid operation.  Possibly wrong module version, address not unicast, ...\n";

#[test]
fn addresses_only_the_kernel_knows() {
    use lb_user::control::address::AddressKind;

    let mut desk = Desk::new();
    desk.ok("ipvsadm -A -t 10.0.0.1:80");
    let kinds = &mut desk.balancer.store_mut().kinds;
    kinds.insert("10.0.0.255".parse().unwrap(), AddressKind::Broadcast);
    kinds.insert("fe80::1".parse().unwrap(), AddressKind::Local);
    assert_eq!(desk.run("ipvsadm -a -t 10.0.0.1:80 -r 10.0.0.255").err, INVALID);
    desk.ok("ipvsadm -a -t 10.0.0.1:80 -r [fe80::1]:80 -i");
    desk.ok("ipvsadm -a -t 10.0.0.1:80 -r 127.0.0.1");
    desk.ok("ipvsadm -a -t 10.0.0.1:80 -r 240.0.0.1");
}

#[test]
fn mixed_families_and_daemons_exclude_each_other() {
    let mut desk = Desk::new();
    desk.balancer.store_mut().nics.push("eth1".to_owned());
    desk.ok("ipvsadm -A -t 10.0.0.1:80");
    desk.ok("ipvsadm -a -t 10.0.0.1:80 -r 2001:db8::2 -i");
    let start = "ipvsadm --start-daemon master --mcast-interface eth1";
    assert_eq!(desk.run(start).err, INVALID);
    desk.ok("ipvsadm -d -t 10.0.0.1:80 -r [2001:db8::2]:80");
    desk.ok(start);
    assert_eq!(desk.run("ipvsadm -a -t 10.0.0.1:80 -r 2001:db8::2 -i").err, INVALID);
    assert_eq!(desk.run(start).err, "Daemon has already run\n");
    assert_eq!(desk.run("ipvsadm --stop-daemon backup").err, "No daemon is running\n");
    assert_eq!(desk.run("ipvsadm --start-daemon backup").err, "No such device\n");
    desk.ok("ipvsadm --stop-daemon master");
}

#[test]
fn more_dests_than_mh_has_slots() {
    let mut desk = Desk::new();
    let mut lines = String::from("-A -f 1 -s mh\n");
    for n in 0..4093 {
        lines += &format!("-a -f 1 -r 10.1.{}.{}:80 -m\n", n / 250, n % 250 + 1);
    }
    desk.restore(&lines);
    assert_eq!(desk.run("ipvsadm -a -f 1 -r 10.2.0.1:80 -m").err, INVALID);
    desk.ok("ipvsadm -E -f 1 -s rr");
    desk.ok("ipvsadm -a -f 1 -r 10.2.0.1:80 -m");
    assert_eq!(desk.run("ipvsadm -E -f 1 -s mh").err, INVALID);
}
