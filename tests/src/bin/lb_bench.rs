//! The benchmarks that `cargo xtask bench` starts: they need the loaded program, and namespaces to run it in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use lb_tests::bench::measure::{self, Effort, Figure};
use lb_tests::bench::{plot, report};

/// Measures the balancer.
#[derive(Parser)]
enum Verb {
    /// Nanoseconds of a packet in the loaded program
    Packet(Options),
}

#[derive(clap::Args)]
struct Options {
    /// Few rounds: a first look
    #[arg(long)]
    quick: bool,
    /// Only cases whose name contains this
    #[arg(long, value_name = "FILTER", default_value = "")]
    case: String,
    /// Folder of the results
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let Verb::Packet(options) = Verb::parse();
    match packet(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lb-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn packet(options: &Options) -> Result<()> {
    let effort = if options.quick { Effort::QUICK } else { Effort::WHOLE };
    println!("{}", report::heading());
    let figures = measure::all(effort, &options.case, |figure| println!("{}", report::line(figure)))?;
    write(&options.out, &figures)?;
    let wrong: Vec<String> = figures.iter().filter(|figure| !figure.right).map(|f| f.case.name()).collect();
    ensure!(wrong.is_empty(), "not every packet was what it should be: {}", wrong.join(", "));
    Ok(())
}

fn write(folder: &Path, figures: &[Figure]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let file = folder.join("packet.json");
    let text = serde_json::to_string_pretty(&report::json(figures))?;
    fs::write(&file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
    let picture = folder.join("packet.svg");
    plot::draw(figures, &picture)?;
    println!("\nwritten: {} {}", file.display(), picture.display());
    Ok(())
}
