//! Saving, restoring, and what ends a restore.

#![allow(clippy::unwrap_used, reason = "a failing test should say so where it happens")]

mod common;

use common::{Desk, assert_same};
use proptest::prelude::*;

/// The reference's lines.
const SAVED: &str = "-A -t 10.0.0.1:443 -s sh -p 300 -M 255.255.255.0 -b sh-fallback,sh-port
-A -t 192.168.0.1:80 -s rr
-a -t 192.168.0.1:80 -r 192.168.5.2:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-remcsum
-a -t 192.168.0.1:80 -r 192.168.5.3:80 -i -w 1 --tun-type gre --tun-csum
-a -t 192.168.0.1:80 -r 192.168.5.4:80 -i -w 1 --tun-type ipip
-a -t 192.168.0.1:80 -r 10.0.0.1:8080 -m -w 5
-A -u 10.0.0.1:5060 -s rr -p 60 --pe sip -o
-A --sctp-service 10.0.0.9:2905 -s rr -b flag-3
-A -t [2001:db8::1]:80 -s wlc -p 360 -M 64
-a -t [2001:db8::1]:80 -r [2001:db8::5]:80 -m -w 1
-A -f 2 -6 -s mh -b mh-port
-a -f 2 -6 -r [2001:db8::5]:80 -g -w 1
";

/// IPVS's order, as a listing of these addresses has it: 192.168 before 10.
fn sorted() -> String {
    let (first, rest) = SAVED.split_once('\n').unwrap();
    let at = rest.find("-A -u").unwrap();
    format!("{}{first}\n{}", &rest[..at], &rest[at..])
}

#[test]
fn saved_as_ipvsadm_does() {
    let mut desk = Desk::new();
    desk.restore(SAVED);
    assert_same("-S -n", &desk.ok("ipvsadm -S -n"), &sorted());
    assert_same("ipvsadm-save -n", &desk.ok("ipvsadm-save -n"), &sorted());
    assert_same("ipvsadm-save file -n", &desk.ok("ipvsadm-save file -n"), &sorted());
}

#[test]
fn names_in_saved_lines() {
    let mut desk = Desk::new();
    desk.restore(
        "-A -t 192.0.2.80:80\n-a -t 192.0.2.80:80 -r 192.0.2.81:443 -m\n-A -f 1\n-a -f 1 -r web:80 -m\n",
    );
    let saved = "-A -t web:http -s wlc
-a -t web:http -r a-name-longer-than-the-column.example:https -m -w 1
-A -f 1 -s wlc
-a -f 1 -r web:80 -m -w 1
";
    assert_same("-S", &desk.ok("ipvsadm -S"), saved);
    desk.ok("ipvsadm -C");
    desk.restore(saved);
    assert_same("-S again", &desk.ok("ipvsadm -S"), saved);
}

#[test]
fn thresholds_are_not_saved() {
    let mut desk = Desk::new();
    desk.restore("-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 10.0.0.2 -x 5 -y 3\n");
    assert_same(
        "-S",
        &desk.ok("ipvsadm -S -n"),
        "-A -t 10.0.0.1:80 -s wlc\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -g -w 1\n",
    );
}

/// Input, stderr, status, and what is there afterwards.
#[test]
fn what_ends_a_restore() {
    let one = "-A -t 10.0.0.1:80 -s rr\n";
    let two = "-A -t 10.0.0.1:80 -s rr\n-A -t 10.0.0.2:80 -s rr\n";
    let tail = "-A -t 10.0.0.2:80 -s rr\n";
    let try_help = "Try `ipvsadm -h' or 'ipvsadm --help' for more information.\n";
    for (input, err, status, left) in [
        // Goes on: refusals of the balancer, and wrong words.
        (format!("{one}{one}{tail}"), "Service already exists\n", 0, two),
        (format!("{one}{tail}{one}"), "Service already exists\n", 255, two),
        (format!("{one}-A -t 10.0.0.3:80 -z\n{tail}"), "-z: unknown option\n", 0, two),
        (format!("{one}-A -t\n"), "-t: missing argument\n", 255, one),
        // Ends: bad arguments, lines without a command, comments, failed listings.
        (format!("{one}-A -t 80\n{tail}"), "illegal virtual server address[:port] specified\n", 2, one),
        (format!("{one}foo\n{tail}"), try_help, 255, one),
        (format!("{one}# comment\n{tail}"), try_help, 255, one),
        (format!("{one}-R\n{tail}"), try_help, 255, one),
        (format!("{one}{} # comment\n{tail}", tail.trim_end()), "unexpected argument #\n", 2, one),
        (format!("{one}/sbin/ipvsadm -C\n{tail}"), "unexpected argument /sbin/ipvsadm\n", 2, one),
        (format!("{one}-L -t 10.0.0.9:80\n{tail}"), "No such service\n", 1, one),
        // Blank lines, the tool's name, carriage returns, no newline at the end.
        (format!("\n  \t\nipvsadm {one}ipvsadm\n-A ipvsadm -t 10.0.0.2:80\t-s   rr\r"), "", 0, two),
        (String::new(), "", 0, ""),
    ] {
        let mut desk = Desk::new();
        let outcome = desk.run_with("ipvsadm -R", &input);
        assert_same(&input, &outcome.err, err);
        assert_eq!(outcome.status, status, "{input}");
        assert_same(&input, &desk.ok("ipvsadm -S -n"), left);
    }
}

#[test]
fn lists_inside_a_restore() {
    let mut desk = Desk::new();
    let outcome = desk.run_with("ipvsadm -R", "-A -t 10.0.0.1:80\n-S -n\n-h\n-C\n");
    assert!(outcome.out.starts_with("-A -t 10.0.0.1:80 -s wlc\nipvsadm v1.31"), "{outcome:?}");
    assert_eq!(outcome.status, 0);
    assert_same("help ended it", &desk.ok("ipvsadm -S -n"), "-A -t 10.0.0.1:80 -s wlc\n");
}

#[test]
fn restore_does_not_clear() {
    let mut desk = Desk::new();
    desk.ok("ipvsadm -A -t 10.0.0.1:80 -s wrr");
    let input = "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.1.0.1 -m\n";
    let outcome = desk.run_with("ipvsadm -R", input);
    assert_eq!((outcome.err.as_str(), outcome.status), ("Service already exists\n", 0));
    let left = "-A -t 10.0.0.1:80 -s wrr\n-a -t 10.0.0.1:80 -r 10.1.0.1:80 -m -w 1\n";
    assert_same("-S", &desk.ok("ipvsadm -S -n"), left);
}

#[test]
fn the_restore_script_clears_and_knows_comments() {
    let mut desk = Desk::new();
    desk.ok("ipvsadm -A -t 10.0.0.9:80 -s wrr");
    let input = "# saved\n-A -t 10.0.0.1:80 -s rr\n#-A -t 10.0.0.2:80\n-a -t 10.0.0.1:80 -r 10.1.0.1 -m\n";
    let outcome = desk.run_with("ipvsadm-restore", input);
    assert_eq!((outcome.err.as_str(), outcome.status), ("", 0));
    let left = "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.1.0.1:80 -m -w 1\n";
    assert_same("-S", &desk.ok("ipvsadm -S -n"), left);
    assert_eq!(desk.run_with("ipvsadm-restore -x", " # indented\n").status, 255);
    assert_same("cleared all the same", &desk.ok("ipvsadm -S -n"), "");
}

#[test]
fn the_save_script_knows_one_option() {
    let outcome = Desk::new().run("ipvsadm-save -x");
    let help = "ipvsadm-save: Script to save the IPVS table to stdout.\n   \
                With the -n option, prints out the table in numeric format.\n";
    assert_eq!((outcome.err.as_str(), outcome.status), (help, 1));
}

prop_compose! {
    fn service()(
        by in prop_oneof![
            (0u8..4, 1u16..).prop_map(|(a, port)| format!("-t 10.0.0.{a}:{port}")),
            (0u8..4, 1u16..).prop_map(|(a, port)| format!("-u 200.0.0.{a}:{port}")),
            (0u8..4, 1u16..).prop_map(|(a, port)| format!("--sctp-service [2001:db8::{a:x}]:{port}")),
            (1u32..1 << 31).prop_map(|mark| format!("-f {mark}")),
            (1u32..1 << 31).prop_map(|mark| format!("-f {mark} -6")),
        ],
        scheduler in prop_oneof!["rr", "wlc", "sh -b sh-port", "mh -b mh-fallback,mh-port", "lc -b flag-1,flag-3"],
        persistence in prop::option::of((1u32..2_678_400, prop::option::of(1u8..128))),
        engine in any::<bool>(),
    ) -> (String, String) {
        let six = by.contains('[') || by.ends_with("-6");
        let mask = |bits: u8| if six { format!(" -M {bits}") } else { format!(" -M 255.{bits}.0.0") };
        let persistence = persistence.map_or(String::new(), |(seconds, bits)| {
            format!(" -p {seconds}{}", bits.map_or(String::new(), mask))
        });
        let (scheduler, flags) = scheduler.split_once(" -b").map_or((scheduler.as_str(), ""), |(s, f)| (s, f));
        let flags = if flags.is_empty() { String::new() } else { format!(" -b{flags}") };
        let engine = if engine { " --pe sip" } else { "" };
        let options = format!(" -s {scheduler}{persistence}{engine}{flags}");
        (by, options)
    }
}

prop_compose! {
    fn server()(
        host in 1u8..=254,
        port in 1u16..,
        method in prop_oneof![
            Just("-m".to_owned()),
            Just("-g".to_owned()),
            Just("-i --tun-type ipip".to_owned()),
            (1u16..).prop_map(|port| format!("-i --tun-type gue --tun-port {port} --tun-remcsum")),
            Just("-i --tun-type gre --tun-nocsum".to_owned()),
        ],
        weight in 0u32..=i32::MAX as u32,
    ) -> (u8, u16, String) {
        let (method, tunnel) = method.split_once(' ').map_or((method.as_str(), ""), |(m, t)| (m, t));
        let tunnel = if tunnel.is_empty() { String::new() } else { format!(" {tunnel}") };
        (host, port, format!(" {method} -w {weight}{tunnel}"))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// What was saved gives the same table again, and saves the same.
    #[test]
    fn round_trip(table in prop::collection::vec((service(), prop::collection::vec(server(), 0..4)), 0..8)) {
        let mut lines = String::new();
        for ((by, options), servers) in &table {
            lines += &format!("-A {by}{options}\n");
            let six = by.contains('[') || by.ends_with("-6");
            for (host, port, options) in servers {
                let server = if six { format!("[fd00::{host:x}]:{port}") } else { format!("10.9.0.{host}:{port}") };
                lines += &format!("-a {by} -r {server}{options}\n");
            }
        }
        // The same service or dest may come twice: the refusals are not the point here.
        let mut desk = Desk::new();
        desk.run_with("ipvsadm -R", &lines);
        let saved = desk.ok("ipvsadm -S -n");
        let listed = desk.ok("ipvsadm -L -n --tun-info");
        let mut copy = Desk::new();
        copy.restore(&saved);
        prop_assert_eq!(copy.ok("ipvsadm -S -n"), saved);
        prop_assert_eq!(copy.ok("ipvsadm -L -n --tun-info"), listed);
    }
}
