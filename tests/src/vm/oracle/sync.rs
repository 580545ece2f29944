//! Connection sync between kernel IPVS and us, in one virtual machine: one of the two plays a case as master, the other
//! hears of it, has to list the same, and then gets the rest of the connection's packets. What comes out of it has to be what
//! would have come out of the master.

use super::case::{self, Case, Step};
use super::play::{connections, services};
use super::side::{Side, Which};
use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Who is the master, and the version of messages.
const PASSES: [(Which, u8); 4] = [(Which::Kernel, 1), (Which::Ours, 1), (Which::Kernel, 0), (Which::Ours, 0)];
/// Numbers of cases in a pass.
const NUMBERS: u16 = 64;
/// The kernel waits up to three seconds before it sends.
const SOON: Duration = Duration::from_secs(20);
/// Seconds by which the backup's connection may outlive the master's: it begins when it is heard of.
const LATE: u64 = 10;

/// Plays the cases of a file in all passes.
pub fn play(cases: &Path) -> Result<String> {
    let text = fs::read_to_string(cases)?;
    let mut kernel = Side::new(Which::Kernel).context("setting up kernel IPVS")?;
    let mut ours = Side::new(Which::Ours).context("setting up ours")?;
    kernel.cable(&ours)?;
    let mut said = String::new();
    let mut failed = 0;
    for (n, (which, version)) in (0..).zip(PASSES) {
        let (master, backup) = match which {
            Which::Kernel => (&mut kernel, &mut ours),
            Which::Ours => (&mut ours, &mut kernel),
        };
        let cases = case::parse(&text, 1 + n * NUMBERS)?;
        // Version 0 has no words for IPv6, marks and calls.
        let cases: Vec<Case> = cases.into_iter().filter(|case| version == 1 || plain(case)).collect();
        let mut pass = Pass { master, backup, timed: version == 1 };
        for result in pass.play(&cases, version).with_context(|| format!("{which:?} as master"))? {
            failed += u32::from(result.1.is_err());
            let told = result.1.err().map_or("ok".to_owned(), |why| format!("FAILED\n{why:#}"));
            writeln!(said, "{which:?} tells, version {version}: {} {told}", result.0)?;
        }
    }
    ensure!(failed == 0, "{failed} failed\n{said}");
    Ok(said)
}

fn plain(case: &Case) -> bool {
    !case.name.ends_with("v6") && !case.lines.iter().any(|line| line.contains("mark") || line.contains("sip"))
}

struct Pass<'a> {
    master: &'a mut Side,
    backup: &'a mut Side,
    /// Messages say how long a connection lives; those of version 0 do not.
    timed: bool,
}

impl Pass<'_> {
    /// Each case's name and what came of it.
    fn play(&mut self, cases: &[Case], version: u8) -> Result<Vec<(String, Result<()>)>> {
        for side in [&*self.master, &*self.backup] {
            side.add_vips(cases.iter().flat_map(Case::addresses))?;
        }
        self.master.command(&words(&format!("sysctl sync_version={version}")), "")?;
        for (side, role) in [(&*self.backup, "backup"), (&*self.master, "master")] {
            done(side, &format!("ipvsadm --start-daemon {role} --mcast-interface sync0 --syncid 9"))?;
        }
        for case in cases {
            self.begin(case).with_context(|| case.name.clone())?;
        }
        let until = Instant::now() + SOON;
        let results = cases.iter().map(|case| (case.name.clone(), self.judge(case, until)));
        let results = results.collect();
        for (side, role) in [(&*self.backup, "backup"), (&*self.master, "master")] {
            done(side, &format!("ipvsadm --stop-daemon {role}"))?;
            done(side, "ipvsadm -C")?;
        }
        self.master.command(&words("sysctl sync_version=1"), "")?;
        Ok(results)
    }

    /// Commands for both, packets for the master.
    fn begin(&mut self, case: &Case) -> Result<()> {
        for (text, step) in case.steps()? {
            match step {
                Step::Moves => break,
                Step::Beats(_) | Step::Told(_) => bail!("not here: {text}"),
                Step::Pause(milliseconds) => thread::sleep(Duration::from_millis(milliseconds)),
                Step::Packet(shot) => drop(self.master.shoot(&shot)?),
                Step::Command(words, input) => {
                    for side in [&mut *self.master, &mut *self.backup] {
                        if let Some(told) = side.command(&words, &input)? {
                            told.ok().with_context(|| text.clone())?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn judge(&mut self, case: &Case, until: Instant) -> Result<()> {
        loop {
            let (here, there) = (listed(self.master, case)?, listed(self.backup, case)?);
            if here == there && !here.0.is_empty() {
                break self.lives(case)?;
            }
            if Instant::now() > until {
                let said = self.master.reasons()? + &self.backup.reasons()?;
                bail!("the master lists\n{}{}the backup\n{}{}{said}", here.0, here.1, there.0, there.1);
            }
            thread::sleep(Duration::from_millis(200));
        }
        let rest = case.steps()?.into_iter().skip_while(|(_, step)| *step != Step::Moves).skip(1);
        for (text, step) in rest {
            let Step::Packet(shot) = step else { bail!("only packets move: {text}") };
            let (there, here) = (self.backup.shoot(&shot)?, self.master.shoot(&shot)?);
            ensure!(here == there, "{text}\nthe master gives\n{here}the backup\n{there}");
        }
        Ok(())
    }

    /// What both list lives as long at both.
    fn lives(&self, case: &Case) -> Result<()> {
        if self.timed {
            let (here, there) = (lives(self.master, case)?, lives(self.backup, case)?);
            for (here, there) in here.iter().zip(&there) {
                ensure!(here.1.abs_diff(there.1) <= LATE, "the master's {here:?}, the backup's {there:?}");
            }
        }
        Ok(())
    }
}

/// The case's connections with the seconds they have to live, in the order of both.
fn lives(side: &Side, case: &Case) -> Result<Vec<(String, u64)>> {
    let listing = side.ipvsadm(&words("ipvsadm -Lnc --persistent-conn"), "")?.ok()?;
    let mut lives = Vec::new();
    for line in listing.lines().filter(|line| case.owns(line)) {
        let (minutes, seconds) = line
            .split_whitespace()
            .nth(1)
            .and_then(|expiry| expiry.split_once(':'))
            .with_context(|| line.to_owned())?;
        lives.push((connections(line, case), minutes.parse::<u64>()? * 60 + seconds.parse::<u64>()?));
    }
    lives.sort();
    Ok(lives)
}

/// The case's connections, and its services.
fn listed(side: &Side, case: &Case) -> Result<(String, String)> {
    let list = |line: &str| side.ipvsadm(&words(line), "").and_then(crate::run::Said::ok);
    let conns = connections(&list("ipvsadm -Lnc --persistent-conn")?, case);
    Ok((conns, services(&list("ipvsadm -Ln")?, case)))
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn done(side: &Side, line: &str) -> Result<()> {
    side.ipvsadm(&words(line), "")?.ok().with_context(|| line.to_owned()).map(drop)
}
