//! Development commands, all started as `cargo xtask VERB`. One file per verb; each does its own set-up first.

mod bench;
mod bpf_cargo;
mod build;
mod command;
mod demo;
mod lint;
mod setup;
mod test;
mod vm;

use std::process::ExitCode;

use clap::Parser;

/// Development commands of the balancer.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
enum Verb {
    /// Find or install everything that building and testing need; at once when it is all there
    Setup,
    /// Build lb-user with the kernel program in it
    Build(build::Options),
    /// Run every test, set-up and lints included
    Test(test::Options),
    /// Check formatting, and clippy over every crate, the kernel's included
    Lint,
    /// Watch real requests go through the balancer, in network namespaces of their own
    Demo(demo::Options),
    /// Measure the balancer
    #[command(subcommand)]
    Bench(bench::What),
}

fn main() -> ExitCode {
    let done = match Verb::parse() {
        Verb::Setup => setup::run(),
        Verb::Build(options) => build::run(&options),
        Verb::Test(options) => test::run(&options),
        Verb::Lint => lint::run(),
        Verb::Demo(options) => demo::run(&options),
        Verb::Bench(what) => bench::run(&what),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
