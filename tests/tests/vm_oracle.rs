//! Kernel IPVS as the oracle: every case is played by both balancers in one boot of the virtual machine, and judged by
//! itself. `LB_TESTS_FULL=1` adds the sweep over all schedulers, weights, traffic, families and methods.

use anyhow::{Result, ensure};
use lb_tests::need::{self, Missing};
use lb_tests::vm::oracle::case::{self, Case};
use lb_tests::vm::oracle::judge::{self, Transcripts};
use lb_tests::vm::oracle::table;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::collections::BTreeSet;
use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

/// What people thought worth asking. New files go to the end: a case's addresses follow from its place.
const BY_HAND: [&str; 17] = [
    include_str!("../src/vm/oracle/cases/basics.txt"),
    include_str!("../src/vm/oracle/cases/fragments.txt"),
    include_str!("../src/vm/oracle/cases/sctp.txt"),
    include_str!("../src/vm/oracle/cases/marks.txt"),
    include_str!("../src/vm/oracle/cases/tunnels.txt"),
    include_str!("../src/vm/oracle/cases/icmp.txt"),
    include_str!("../src/vm/oracle/cases/sysctls.txt"),
    include_str!("../src/vm/oracle/cases/accounts.txt"),
    include_str!("../src/vm/oracle/cases/sip.txt"),
    include_str!("../src/vm/oracle/cases/backwards.txt"),
    include_str!("../src/vm/oracle/cases/replies.txt"),
    include_str!("../src/vm/oracle/cases/sip_begun.txt"),
    include_str!("../src/vm/oracle/cases/here.txt"),
    include_str!("../src/vm/oracle/cases/rates.txt"),
    include_str!("../src/vm/oracle/cases/told.txt"),
    include_str!("../src/vm/oracle/cases/outer.txt"),
    include_str!("../src/vm/oracle/cases/ftp.txt"),
];

/// Numbers of the first case of the table, and of the first one of the sweep.
const USUAL: u16 = 256;
const SWEEP: u16 = 512;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cases: Arc<Vec<Case>> = match all() {
        Ok(cases) => Arc::new(cases),
        Err(error) => {
            eprintln!("{error:?}");
            return ExitCode::FAILURE;
        }
    };
    let chosen: Arc<Vec<usize>> =
        Arc::new((0..cases.len()).filter(|nth| wanted(&arguments, &cases[*nth])).collect());
    let played: Arc<OnceLock<Result<Transcripts>>> = Arc::default();
    let trials = (0..cases.len()).map(|nth| {
        let (all, chosen, played) = (cases.clone(), chosen.clone(), played.clone());
        Trial::ignorable_test(cases[nth].name.clone(), move || judged(&all, &chosen, &played, nth))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// The cases by hand, those of the table, and when asked for, the sweep. The first ones keep their numbers, and with
/// them their addresses, whatever follows.
fn all() -> Result<Vec<Case>> {
    let mut cases = case::parse(&BY_HAND.join("\n"), 1)?;
    ensure!(cases.len() < usize::from(USUAL), "the cases by hand have run into the table's numbers");
    let mut names: BTreeSet<String> = cases.iter().map(|case| case.name.clone()).collect();
    let full = env::var_os("LB_TESTS_FULL").is_some_and(|full| full == "1");
    let tables = [(table::usual(), USUAL), (if full { table::sweep() } else { String::new() }, SWEEP)];
    for (text, first) in tables {
        cases.extend(case::parse(&text, first)?.into_iter().filter(|case| names.insert(case.name.clone())));
    }
    Ok(cases)
}

/// As the harness will choose: only these are played.
fn wanted(arguments: &Arguments, case: &Case) -> bool {
    let matches = |filter: &String| match arguments.exact {
        true => case.name == *filter,
        false => case.name.contains(filter.as_str()),
    };
    !arguments.list && arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
}

/// The command that runs a case alone.
fn alone(case: &Case) -> String {
    let full = if case.number >= SWEEP { "--full " } else { "" };
    format!("cargo xtask test vm {full}--exact --only {}", case.name)
}

fn judged(
    all: &[Case],
    chosen: &[usize],
    played: &OnceLock<Result<Transcripts>>,
    nth: usize,
) -> Result<Completion, Failed> {
    let play = || {
        let cases: Vec<&Case> = chosen.iter().map(|&nth| &all[nth]).collect();
        judge::run(&cases, Path::new(env!("CARGO_BIN_EXE_lb-guest")))
    };
    match played.get_or_init(play) {
        Ok(transcripts) => match transcripts.judge(&all[nth]) {
            Ok(()) => Ok(Completion::Completed),
            Err(difference) => Err(format!("{difference:#}\nAlone: {}", alone(&all[nth])).into()),
        },
        Err(error) => match error.downcast_ref::<Missing>() {
            Some(missing) if !need::nothing_may_be_skipped() => {
                Ok(Completion::ignored_with(missing.to_string()))
            }
            // Said in full once: it is the same for all.
            _ if chosen.first() == Some(&nth) => Err(format!("{error:?}").into()),
            _ => Err(format!("the virtual machine's run failed, see {}", all[chosen[0]].name).into()),
        },
    }
}
