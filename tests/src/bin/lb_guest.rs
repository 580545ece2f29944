//! What runs inside the virtual machine (see `lb_tests::vm`).

use anyhow::{Result, bail};
use lb_tests::bench::ipvs;
use lb_tests::vm::{load, oracle};
use std::env;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(said) => {
            print!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

const USAGE: &str = "\
lb-guest load
lb-guest oracle CASES OUT
lb-guest sync CASES
lb-guest instructions quick|whole FILTER
lb-guest kernel-ipvs FILTER";

fn run(words: &[&str]) -> Result<String> {
    match words {
        ["load"] => load::all(),
        ["oracle", cases, out] => oracle::play(Path::new(cases), Path::new(out)),
        ["sync", cases] => oracle::sync::play(Path::new(cases)),
        ["instructions", effort @ ("quick" | "whole"), filter] => {
            ipvs::guest::run(filter, *effort == "quick")
        }
        ["kernel-ipvs", filter] => ipvs::guest::kernel_twice(filter),
        _ => bail!(USAGE),
    }
}
