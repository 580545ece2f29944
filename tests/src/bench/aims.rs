//! What is aimed at: nanoseconds above the floor, in the same run. The one place that has them.

use lb_common::addr::{Family, Proto};
use lb_common::sched::Scheduler;

use super::cases::{Case, Kind, Path};
use super::measure::Figure;

/// The aim of a case, if it has one. Judged in every table the case is measured in, the large one first of all.
pub fn of(case: &Case) -> Option<f64> {
    let (v4, tcp) = (case.family == Family::V4, case.proto == Proto::TCP);
    Some(match (case.kind, v4, tcp) {
        (Kind::Established(path, flows), ..) => return established(path, flows, v4, tcp),
        (Kind::New(_, Scheduler::Rr, _), true, true) => 290.0,
        (Kind::New(_, Scheduler::Wlc, 64), true, true) => 400.0,
        (Kind::New(_, Scheduler::Wlc, 256), true, true) => 450.0,
        (Kind::New(_, Scheduler::Wlc, 1024), true, true) => 500.0,
        (Kind::Foreign, true, _) => 8.0,
        (Kind::Foreign, false, _) => 10.0,
        _ => return None,
    })
}

fn established(path: Path, flows: u32, v4: bool, tcp: bool) -> Option<f64> {
    Some(match (v4, tcp, path, flows) {
        (true, true, Path::Ipip, 1) => 38.0,
        (true, true, Path::Ipip, 4096) => 55.0,
        (true, true, Path::Ipip, 65_536) => 100.0,
        (true, true, Path::Ipip, 1_000_000) => 175.0,
        (true, true, Path::Dr, 1) => 34.0,
        (true, true, Path::NatIn | Path::NatReply, 1) => 45.0,
        (true, true, Path::Gue, 1) => 70.0,
        (true, true, Path::Gue, 1_000_000) => 215.0,
        (true, false, Path::Dr | Path::Ipip, 1) => 38.0,
        (true, false, Path::Dr | Path::Ipip, 1_000_000) => 175.0,
        (false, true, Path::Dr | Path::Ipip, 1) => 48.0,
        (false, true, Path::Dr | Path::Ipip, 1_000_000) => 220.0,
        _ => return None,
    })
}

/// One line: the aims that are missed, by how much, and what one line of memory costs that each packet has to fetch.
pub fn missed(figures: &[Figure]) -> String {
    let (mut aims, mut missed) = (0, Vec::new());
    for figure in figures {
        let Some(aim) = of(&figure.subject.case) else { continue };
        aims += 1;
        let more = figure.delta_ns() - aim;
        if more > 0.0 {
            let line = figure.line_ns.map_or_else(String::new, |line| format!(", one line is {line:.0}"));
            missed.push(format!("{} by {more:.1} ({aim:.0}{line})", figure.subject.name()));
        }
    }
    match (aims, missed.len()) {
        (0, _) => "no aim is set for these".to_owned(),
        (_, 0) => format!("all {aims} aims are reached"),
        (_, many) => format!("{many} of {aims} aims are missed, ns: {}", missed.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::bench::subjects::Subject;

    fn figure(kind: Kind, raw_ns: f64, line_ns: Option<f64>) -> Figure {
        let case = Case { family: Family::V4, proto: Proto::TCP, kind };
        let subject = Subject { case, own_table: false };
        let (floor_ns, best_ns, noise_ns) = (60.0, raw_ns, 0.0);
        let (packets, verdicts, right) = (1, BTreeMap::new(), true);
        Figure {
            subject,
            floor_ns,
            raw_ns,
            best_ns,
            noise_ns,
            line_ns,
            packets,
            verdicts,
            right,
            beside: None,
        }
    }

    #[test]
    fn every_aim_belongs_to_a_case() {
        let with_aim = |own_table: bool| {
            let all = Subject::all().into_iter();
            all.filter(|subject| subject.own_table == own_table && of(&subject.case).is_some()).count()
        };
        assert_eq!((with_aim(false), with_aim(true)), (4 + 1 + 2 + 2 + 4 + 4 + 4 + 2, 1));
    }

    #[test]
    fn what_is_missed_is_named() {
        let many = figure(Kind::Established(Path::Ipip, 65_536), 224.4, Some(133.3));
        let one = figure(Kind::Established(Path::Ipip, 1), 90.0, Some(3.0));
        let pass = figure(Kind::Foreign, 70.0, None);
        let said = missed(&[many, one.clone(), pass]);
        let expected = "2 of 3 aims are missed, ns: v4 tcp ipip 65536 by 64.4 (100, one line is 133); v4 pass by 2.0 (8)";
        assert_eq!(said, expected);
        assert_eq!(missed(&[one]), "all 1 aims are reached");
    }

    #[test]
    fn each_table_is_judged_by_itself() {
        let large = figure(Kind::Established(Path::Ipip, 65_536), 190.0, None);
        let own =
            Figure { subject: Subject { own_table: true, ..large.subject }, raw_ns: 150.0, ..large.clone() };
        let expected = "1 of 2 aims are missed, ns: v4 tcp ipip 65536 by 30.0 (100)";
        assert_eq!(missed(&[large.clone(), own.clone()]), expected);
        let own = Figure { raw_ns: 170.0, ..own };
        assert!(missed(&[own]).ends_with("v4 tcp ipip 65536, own table by 10.0 (100)"));
    }
}
