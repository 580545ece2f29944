//! The benchmarks that `cargo xtask bench` starts: they need the loaded program, and namespaces to run it in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use lb_tests::bench::agent::{self, Check};
use lb_tests::bench::measure::{self, Effort, Figure};
use lb_tests::bench::{aims, ipvs, plot, report, scale, wire};
use lb_tests::case::FAMILIES;
use lb_tests::flood::{self, Flood};
use lb_tests::stale;
use serde_json::{Value, json};

/// Measures the balancer.
#[derive(Parser)]
enum Verb {
    /// Nanoseconds of a packet in the loaded program
    Packet {
        #[command(flatten)]
        options: Options,
        /// The object of another build, to be compared with in the same rounds
        #[arg(long, value_name = "FILE")]
        beside: Option<PathBuf>,
    },
    /// Processor time of the agent with a thousand servers
    Agent(Options),
    /// Frames and pages a second through namespaces
    Wire(Options),
    /// What grows with connections, dests and services: packets, commands, the sweep, memory
    Scale(Options),
    /// Floods of ten times the table's size beside 20,000 connections
    Flood(Options),
    /// Instructions of a packet in the virtual machine, ours and kernel IPVS's
    Ipvs {
        #[command(flatten)]
        options: Options,
        /// The program that runs in the virtual machine
        #[arg(long, value_name = "FILE")]
        guest: PathBuf,
    },
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
    match stale::go_with_ctrl_c().and_then(|()| run(Verb::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lb-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Packet { options, beside } => packet(&options, beside.as_deref()),
        Verb::Agent(options) => checks(&options),
        Verb::Wire(options) => wire(&options),
        Verb::Scale(options) => scale(&options),
        Verb::Flood(options) => floods(&options),
        Verb::Ipvs { options, guest } => against_ipvs(&options, &guest),
    }
}

fn packet(options: &Options, beside: Option<&Path>) -> Result<()> {
    let effort = if options.quick { Effort::QUICK } else { Effort::WHOLE };
    let read = |file: &Path| fs::read(file).with_context(|| format!("reading {}", file.display()));
    let object = beside.map(read).transpose()?;
    println!("{}", report::heading(beside.is_some()));
    let show = |figure: &Figure| println!("{}", report::line(figure));
    let figures = measure::all(effort, &options.case, object.as_deref(), show)?;
    write(&options.out, "packet", &report::json(&figures), |file| plot::draw(&figures, file))?;
    println!("{}", aims::missed(&figures));
    let wrong: Vec<String> =
        figures.iter().filter(|figure| !figure.right).map(|f| f.subject.name()).collect();
    ensure!(wrong.is_empty(), "not every packet was what it should be: {}", wrong.join(", "));
    if let Some(dearer) = report::dearer(&figures) {
        println!("a packet is {dearer:.1} ns dearer than with the build beside, in the median of the cases");
    }
    Ok(())
}

/// A thousand servers, alone and in ten services, by either check.
fn checks(options: &Options) -> Result<()> {
    let seconds = if options.quick { 5 } else { 30 };
    println!("{}", agent::HEADING);
    let mut figures = Vec::new();
    for (check, services) in [(Check::Tcp, 1), (Check::Tcp, 10), (Check::Http, 1)] {
        let figure = agent::measure(check, 1000, services, seconds)?;
        println!("{}", figure.line());
        figures.push(figure.json());
    }
    write(&options.out, "agent", &Value::from(figures), |_| Ok(()))
}

fn wire(options: &Options) -> Result<()> {
    let effort = if options.quick { wire::Effort::QUICK } else { wire::Effort::WHOLE };
    let mut figures = wire::Figures::default();
    if "frames".contains(&options.case) {
        figures.frames = wire::frames::all(effort)?;
        println!("{}", wire::frames::HEADING);
        figures.frames.iter().for_each(|figure| println!("{}", figure.line()));
    }
    if "pages".contains(&options.case) {
        println!("{}", wire::http::HEADING);
        figures.pages = wire::http::all(effort, |figure| println!("{}", figure.line()))?;
    }
    write(&options.out, "wire", &figures.json(), |file| wire::plot::draw(&figures, file))
}

fn scale(options: &Options) -> Result<()> {
    let effort = if options.quick { Effort::QUICK } else { Effort::WHOLE };
    let mut figures = Vec::new();
    let mut show = |figure: scale::Figure| {
        println!("{}", figure.line());
        figures.push(figure);
    };
    if "commands".contains(&options.case) {
        scale::commands::all(&mut show)?;
    }
    scale::packets::all(effort, &options.case, &mut show)?;
    let json = figures.iter().map(scale::Figure::json).collect();
    write(&options.out, "scale", &json, |file| scale::plot::draw(&figures, file))?;
    let over = figures.iter().filter(|figure| figure.most.is_some_and(|most| figure.value > most)).count();
    ensure!(over == 0, "{over} figures are more than they may be");
    Ok(())
}

/// The real size: a table for a million connections.
fn floods(options: &Options) -> Result<()> {
    const CONNECTIONS: u32 = 1 << 20;
    let connections = if options.quick { CONNECTIONS / 8 } else { CONNECTIONS };
    let mut all = Vec::new();
    for family in FAMILIES {
        for flood in Flood::ALL {
            let name = format!("{family:?} {}", flood.name()).to_lowercase();
            if !name.contains(&options.case) {
                continue;
            }
            let outcome = flood::real(family, flood, connections).on_program()?;
            println!(
                "{name:<22} {} packets of {:.0} ns, {} refused; {} connections, none lost",
                outcome.packets, outcome.cost_ns, outcome.refused, outcome.honest
            );
            all.push(json!({
                "case": name, "packets": outcome.packets, "raw_ns": outcome.cost_ns.round(),
                "refused": outcome.refused, "connections": outcome.honest, "live": outcome.live,
            }));
        }
    }
    fs::create_dir_all(&options.out)?;
    fs::write(options.out.join("flood.json"), serde_json::to_string_pretty(&Value::from(all))? + "\n")?;
    Ok(())
}

fn against_ipvs(options: &Options, guest: &Path) -> Result<()> {
    println!("in the virtual machine, a few minutes …");
    let counts = ipvs::host::run(guest, &options.case, options.quick)?;
    println!("{}; {}\n{}", counts.kernel, counts.check, ipvs::report::heading());
    counts.figures.iter().for_each(|figure| println!("{}", ipvs::report::line(figure)));
    let json = ipvs::report::json(&counts.figures);
    write(&options.out, "ipvs", &json, |file| ipvs::plot::draw(&counts.figures, file))?;
    let over = counts.figures.iter().filter(|figure| figure.is_over()).count();
    ensure!(over == 0, "{over} figures are more than they may be");
    Ok(())
}

fn write(folder: &Path, name: &str, json: &Value, draw: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let file = folder.join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(json)?;
    fs::write(&file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
    let picture = folder.join(format!("{name}.svg"));
    draw(&picture)?;
    let drawn = if picture.exists() { format!(" {}", picture.display()) } else { String::new() };
    println!("\nwritten: {}{drawn}", file.display());
    Ok(())
}
