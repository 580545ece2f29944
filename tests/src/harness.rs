//! The `main` of a test file whose tests may find out, while running, that they cannot run.
//!
//! The standard harness knows only passed and failed by then. Here a test returns `anyhow::Result<()>`; an error that
//! is a [`Missing`] counts as ignored and is printed with its reason. Filters, `--test-threads`, `--list` and
//! `--exact` work as with `cargo test` everywhere else.

use crate::need::{self, Missing};
use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::env;
use std::process::ExitCode;

/// A test: its name and its body.
pub type Case = (&'static str, fn() -> Result<()>);

/// Makes the `main` of a test file from the names of its test functions.
#[macro_export]
macro_rules! tests {
    ($($test:ident),+ $(,)?) => {
        fn main() -> std::process::ExitCode {
            $crate::harness::run(&[$((stringify!($test), $test)),+])
        }
    };
}

/// Runs the cases the command line selects.
pub fn run(cases: &[Case]) -> ExitCode {
    let trials =
        cases.iter().map(|&(name, body)| Trial::ignorable_test(name, move || outcome(body()))).collect();
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or_else(threads_wanted);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// As the standard harness understands it.
fn threads_wanted() -> Option<usize> {
    env::var("RUST_TEST_THREADS").ok()?.parse().ok()
}

fn outcome(result: Result<()>) -> Result<Completion, Failed> {
    let Err(error) = result else { return Ok(Completion::Completed) };
    match error.downcast_ref::<Missing>() {
        Some(missing) if !need::nothing_may_be_skipped() => Ok(Completion::ignored_with(missing.to_string())),
        Some(missing) => Err(format!("{missing} (CI=true: nothing may be skipped)").into()),
        None => Err(format!("{error:?}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_thing_is_a_skip() {
        assert!(outcome(Ok(())).is_ok());
        assert!(outcome(Err(anyhow::anyhow!("wrong answer"))).is_err());
        let missing = outcome(Err(Missing::new("a moon").into()));
        assert_eq!(missing.is_err(), need::nothing_may_be_skipped());
    }
}
