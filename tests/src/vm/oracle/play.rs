//! The guest's part: both balancers at the same time, each in a thread, through all cases in their order.

use super::beat;
use super::case::{self, Case, Step};
use super::side::{Side, Which};
use crate::run::Said;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Cases after which counters are listed and all rules go. IPVS's listed counters are those of up to two seconds ago.
const BATCH: usize = 20;
const LAG: Duration = Duration::from_millis(2200);

/// Plays the cases of a file; the transcripts go to `kernel` and `ours` in the folder `out`.
pub fn play(cases: &Path, out: &Path) -> Result<String> {
    let cases = read(&fs::read_to_string(cases)?)?;
    let side = |which, name: &str| -> Result<[Duration; 2]> {
        let start = Instant::now();
        let mut side = Side::new(which).with_context(|| format!("setting up {which:?}"))?;
        side.add_vips(cases.iter().flat_map(Case::addresses))?;
        let mut file = File::create(out.join(name))?;
        let ready = start.elapsed();
        for batch in cases.chunks(BATCH) {
            for case in batch {
                let said = one(&mut side, case).with_context(|| format!("the case {}", case.name))?;
                write!(file, "{said}")?;
            }
            thread::sleep(LAG);
            write!(file, "{}", counters(&side, batch)?)?;
        }
        fs::write(out.join(format!("{name}.status")), side.reasons()?)?;
        Ok([ready, start.elapsed()])
    };
    thread::scope(|scope| {
        let kernel = scope.spawn(|| side(Which::Kernel, "kernel"));
        let ours = side(Which::Ours, "ours").context("ours");
        let kernel = kernel.join().map_err(|_| anyhow::anyhow!("the thread of kernel IPVS panicked"))?;
        let text = |[ready, end]: [Duration; 2]| format!("{end:.1?}, {ready:.1?} of it for set-up");
        Ok(format!("kernel {}; ours {}\n", text(kernel.context("kernel IPVS")?), text(ours?)))
    })
}

/// Each case under its number, which gives its addresses.
fn read(text: &str) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for part in text.split("\n@").map(|part| part.trim_start_matches('@')) {
        let (number, part) = part.split_once('\n').context("a case has a number")?;
        cases.extend(case::parse(part, number.trim().parse()?)?);
    }
    Ok(cases)
}

/// The other way round, on the host.
pub fn write_cases(cases: &[&Case]) -> String {
    cases.iter().map(|case| format!("@{}\n{}", case.number, case.text())).collect()
}

fn one(side: &mut Side, case: &Case) -> Result<String> {
    let mut said = format!("== {}\n", case.name);
    for (text, step) in case.steps()? {
        writeln!(said, "{text}")?;
        match step {
            Step::Moves => {}
            Step::Beats(count) => lines(&mut said, "out", &beat::watch(side, case, count)?)?,
            Step::Told(count) => lines(&mut said, "out", &side.told(case, count)?)?,
            Step::Pause(milliseconds) => thread::sleep(Duration::from_millis(milliseconds)),
            Step::Packet(shot) => said.push_str(&side.shoot(&shot)?),
            Step::Command(words, input) => {
                let Some(mut told) = side.command(&words, &input)? else { continue };
                if words.iter().any(|word| word == "-Lnc") {
                    told = listed(side, &words, told, case)?;
                }
                lines(&mut said, "out", &told.stdout)?;
                lines(&mut said, "err", &told.stderr)?;
                if told.status != 0 {
                    writeln!(said, "  status {}", told.status)?;
                }
            }
        }
    }
    for listing in ["-Lnc", "-Ln"] {
        writeln!(said, "at the end: ipvsadm {listing}")?;
        let words = ["ipvsadm".to_owned(), listing.to_owned()];
        let mut told = side.ipvsadm(&words, "")?;
        if listing == "-Lnc" {
            told = listed(side, &words, told, case)?;
        } else {
            told.stdout = services(&told.stdout, case);
        }
        lines(&mut said, "out", &told.stdout)?;
        lines(&mut said, "err", &told.stderr)?;
    }
    side.reset()?;
    Ok(said)
}

/// A listing of connections, its first reading given: of the case's own, and the kernel's read until two readings agree.
/// Where the buffer of /proc/net/ip_vs_conn ends, the kernel leaves out a line if an entry before it has gone meanwhile.
fn listed(side: &Side, words: &[String], first: Said, case: &Case) -> Result<Said> {
    const READINGS: usize = 5;
    let own = |told: Said| Said { stdout: connections(&told.stdout, case), ..told };
    let mut before = own(first);
    let again = if side.which == Which::Kernel { READINGS } else { 1 };
    for _ in 1..again {
        let now = own(side.ipvsadm(words, "")?);
        if now.stdout == before.stdout {
            break;
        }
        before = now;
    }
    Ok(before)
}

/// Every counter of a batch's services; then the rules go.
fn counters(side: &Side, batch: &[Case]) -> Result<String> {
    let ask = |line: &str| side.ipvsadm(&line.split(' ').map(str::to_owned).collect::<Vec<_>>(), "");
    let mut said = String::new();
    for listing in ["ipvsadm -Ln --stats --exact", "ipvsadm -Sn"] {
        let told = ask(listing)?;
        for case in batch {
            writeln!(said, "== {}\nlater: {listing}", case.name)?;
            let out = match listing.contains("-Sn") {
                true => told
                    .stdout
                    .lines()
                    .filter(|line| case.owns(line))
                    .fold(String::new(), |all, line| all + line + "\n"),
                false if case.counted() => services(&told.stdout, case),
                false => without_counters(&services(&told.stdout, case)),
            };
            lines(&mut said, "out", &out)?;
        }
    }
    ask("ipvsadm -C")?;
    Ok(said)
}

fn lines(said: &mut String, which: &str, text: &str) -> Result<()> {
    text.lines().try_for_each(|line| Ok(writeln!(said, "  {which} {line}")?))
}

/// Names and connections; neither packets nor bytes.
fn without_counters(listing: &str) -> String {
    let cut = |line: &str| {
        line.split_whitespace()
            .rev()
            .skip(4)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
            .join(" ")
    };
    listing.lines().fold(String::new(), |all, line| all + &cut(line) + "\n")
}

/// The case's connections, sorted, with the time they have left blanked.
pub(super) fn connections(listing: &str, case: &Case) -> String {
    let mut found: Vec<String> = Vec::new();
    for line in listing.lines().filter(|line| case.owns(line)) {
        let words = line.split_whitespace().enumerate();
        let masked: Vec<&str> = words.map(|(nth, word)| if nth == 1 { "*" } else { word }).collect();
        found.push(masked.join(" "));
    }
    found.sort();
    found.iter().fold(String::new(), |all, line| all + line + "\n")
}

/// The services of the case with their dests.
pub(super) fn services(listing: &str, case: &Case) -> String {
    let mut ours = false;
    let mut found = String::new();
    for line in listing.lines().skip(3) {
        if !line.starts_with("  ->") {
            ours = case.owns(line);
        }
        if ours {
            found = found + line + "\n";
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_keep_their_numbers() -> Result<()> {
        let cases = case::parse("== a\n! ipvsadm -A -t V:80\n== b\n~ 1\n", 7)?;
        assert_eq!(read(&write_cases(&[&cases[1], &cases[0]]))?, [cases[1].clone(), cases[0].clone()]);
        Ok(())
    }

    #[test]
    fn listings_are_cut_to_the_case() {
        let case = &case::parse("== a\n! ipvsadm -A -t V:80", 1).expect("it parses")[0];
        let listing = "a\nb\nc\nTCP  10.100.0.1:80 rr\n  -> 1:1\nTCP  10.100.0.11:80 rr\n  -> 2:2\n";
        assert_eq!(services(listing, case), "TCP  10.100.0.1:80 rr\n  -> 1:1\n");
        let listing = "x\nTCP 00:59  SYN_RECV   1:1   10.100.0.1:80   2:2\nTCP 00:58 A 1:0 10.100.0.1:80 2:2\nUDP 1 2 3\n";
        assert_eq!(
            connections(listing, case),
            "TCP * A 1:0 10.100.0.1:80 2:2\nTCP * SYN_RECV 1:1 10.100.0.1:80 2:2\n"
        );
        assert_eq!(
            without_counters("TCP  1:80    1 2 3 4 5\n  -> 2:80 1 2 3 4 5\n"),
            "TCP 1:80 1\n-> 2:80 1\n"
        );
    }
}
