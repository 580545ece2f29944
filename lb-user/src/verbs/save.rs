//! `lb-user save` and `lb-user restore`: everything that was set, where `ipvsadm-save` knows services only.
//!
//! The lines are ipvsadm's, and two kinds of our own: `sysctl NAME=VALUE` and `mark --mark N --dst …`.

use std::fs;
use std::io::{self, BufWriter, Read as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;

use super::mark::RuleArgs;
use super::{Pins, sysctl};
use crate::cli::names::{Names, SystemNames};
use crate::cli::parse::{Source, parse};
use crate::cli::request::{Asked, asked};
use crate::cli::{save, sort};
use crate::control::balancer::Balancer;
use crate::control::mark::Rule;
use crate::control::model::Timeouts;
use crate::control::request::Request;
use crate::control::store::Store;
use crate::control::sysctl::Sysctls;

/// Print everything that was set: services, mark rules, timeouts, sysctls
#[derive(Clone, Debug, clap::Args)]
pub struct SaveArgs {
    /// Addresses and ports as numbers
    #[arg(short, long)]
    pub numeric: bool,
    /// Where the tables are pinned.
    #[command(flatten)]
    pub pins: Pins,
}

/// Set everything to what `lb-user save` printed
#[derive(Clone, Debug, clap::Args)]
pub struct RestoreArgs {
    /// What it printed [default: standard input]
    pub file: Option<PathBuf>,
    /// Where the tables are pinned.
    #[command(flatten)]
    pub pins: Pins,
}

/// Does it.
pub fn run(args: &SaveArgs) -> Result<()> {
    let store = super::open_store_at(&args.pins)?;
    let mut out = BufWriter::new(io::stdout().lock());
    write(&store, args.numeric, &SystemNames::default(), &mut out)?;
    Ok(out.flush()?)
}

fn write(store: &impl Store, numeric: bool, names: &dyn Names, out: &mut dyn io::Write) -> Result<()> {
    for value in store.sysctls()?.changed() {
        writeln!(out, "sysctl {value}")?;
    }
    let times = store.timeouts()?;
    if times != Timeouts::default() {
        writeln!(out, "--set {} {} {}", times.tcp, times.tcp_fin, times.udp)?;
    }
    for rule in store.marks()? {
        writeln!(out, "mark {rule}")?;
    }
    let mut services = store.services()?;
    sort::sort(&mut services);
    Ok(save::write_all(&services, numeric, names, out)?)
}

/// Does it.
pub fn run_restore(args: &RestoreArgs) -> Result<()> {
    let text = match &args.file {
        Some(file) => fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?,
        None => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("reading standard input")?;
            text
        }
    };
    let lines = read(&text, &SystemNames::default())?;
    for line in restore(&mut Balancer::new(super::open_store_at(&args.pins)?), &lines)? {
        eprintln!("{line}");
    }
    Ok(())
}

/// What a line wants.
#[derive(Debug)]
enum Line {
    Change(Request),
    Mark(Rule),
    Sysctl(usize, String),
}

#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct MarkLine {
    #[command(flatten)]
    rule: RuleArgs,
}

/// All lines, or the first that makes no sense.
fn read(text: &str, names: &dyn Names) -> Result<Vec<(usize, Line)>> {
    let mut lines = Vec::new();
    for (at, line) in (1..).zip(text.lines()) {
        let words = save::words(line);
        if save::is_comment(line) || words.is_empty() {
            continue;
        }
        lines.push((at, read_line(&words, names).with_context(|| format!("line {at}"))?));
    }
    Ok(lines)
}

fn read_line(words: &[String], names: &dyn Names) -> Result<Line> {
    match words.split_first() {
        Some((first, rest)) if first == "mark" => {
            let line = MarkLine::try_parse_from(rest).map_err(|error| anyhow::anyhow!(short(&error)))?;
            Ok(Line::Mark(line.rule.rule()?))
        }
        Some((first, rest)) if first == "sysctl" => {
            let (at, value) = sysctl::read(&rest.join(" "))?;
            let value = value.context("NAME=VALUE is wanted")?;
            Sysctls::default().set(at, &value)?;
            Ok(Line::Sysctl(at, value))
        }
        _ => match parse(words, Source::Restore, names).and_then(|said| asked(&said)) {
            Ok(Asked::Change(request)) => Ok(Line::Change(request)),
            Ok(_) => bail!("only lines that set something can be restored"),
            Err(complaint) => bail!(complaint.text("ipvsadm").trim_end().replace('\n', " ")),
        },
    }
}

/// clap's complaint in one line.
fn short(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
    lines.collect::<Vec<_>>().join(" ").trim_start_matches("error: ").to_owned()
}

/// Everything is cleared, then the lines are run, in one batch. What there is to say about it, a line each.
fn restore<S: Store>(balancer: &mut Balancer<S>, lines: &[(usize, Line)]) -> Result<Vec<String>> {
    balancer.store_mut().begin()?;
    let done = run_lines(balancer, lines);
    // Lines before one that is refused stay in force, as with ipvsadm-restore.
    balancer.store_mut().commit()?;
    done
}

fn run_lines<S: Store>(balancer: &mut Balancer<S>, lines: &[(usize, Line)]) -> Result<Vec<String>> {
    balancer.apply(&Request::Clear)?;
    balancer.apply(&Request::SetTimeouts(Timeouts::default()))?;
    let store = balancer.store_mut();
    let rules: Vec<Rule> = lines
        .iter()
        .filter_map(|(_, line)| if let Line::Mark(rule) = line { Some(*rule) } else { None })
        .collect();
    ensure!(
        rules.iter().enumerate().all(|(at, rule)| !rules[..at].iter().any(|other| other.same_packets(rule))),
        "two mark rules are for the same packets"
    );
    store.change_marks(&mut |old| {
        old.clone_from(&rules);
        Ok(())
    })?;
    store.change_sysctls(&mut |all| {
        *all = Sysctls::default();
        Ok(())
    })?;
    let values: Vec<(usize, String)> = lines
        .iter()
        .filter_map(
            |(_, line)| if let Line::Sysctl(at, value) = line { Some((*at, value.clone())) } else { None },
        )
        .collect();
    let said = sysctl::set(store, &values)?;
    for (at, line) in lines {
        if let Line::Change(request) = line {
            balancer.apply(request).with_context(|| format!("line {at}"))?;
        }
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test should say so where it happens")]

    use super::*;
    use crate::cli::names::FixedNames;
    use crate::control::memory::MemoryStore;
    use crate::verbs::mark;

    const SAVED: &str = "sysctl conn_reuse_mode=0
sysctl sync_threshold=4 60
--set 900 60 300
mark --mark 9 --dst 10.0.0.1 --proto udp --dport 53
mark --mark 8 --dst 10.0.0.0/24 --src 10.9.0.0/16
-A -t 10.0.0.2:80 -s wlc
-a -t 10.0.0.2:80 -r 10.1.0.1:80 -m -w 1 -x 9 -y 3
-A -f 9 -s rr
-a -f 9 -r 10.1.0.1:0 -m -w 2
";

    fn saved(balancer: &Balancer<MemoryStore>) -> String {
        let mut out = Vec::new();
        write(balancer.store(), true, &FixedNames, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn there_and_back() {
        let mut balancer = Balancer::new(MemoryStore::default());
        mark::add(balancer.store_mut(), Rule::to(1, "10.0.0.9".parse().unwrap())).unwrap();
        restore(&mut balancer, &read(SAVED, &FixedNames).unwrap()).unwrap();
        assert_eq!(saved(&balancer), SAVED);
        restore(&mut balancer, &[]).unwrap();
        assert_eq!(saved(&balancer), "");
    }

    #[test]
    fn wrong_lines_are_told_before_anything_changes() {
        for (text, complaint) in [
            ("-A -t 10.0.0.1:80\nmark --mark 1", "line 2: "),
            (
                "mark --mark 1 --dst 10.0.0.1 --src ::1",
                "line 1: --dst 10.0.0.1 and --src ::1 are of different families",
            ),
            ("sysctl drop_packet=9", "line 1: setting key"),
            ("sysctl nothing=9", "line 1: nothing: no such sysctl"),
            ("\n# -A\n-L", "line 3: only lines that set something"),
            ("-A -t nowhere:x", "line 1: "),
        ] {
            let error = format!("{:#}", read(text, &FixedNames).unwrap_err());
            assert!(error.starts_with(complaint) && !error.contains('\n'), "{error}");
        }
    }
}
