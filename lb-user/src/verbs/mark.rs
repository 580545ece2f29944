//! `lb-user mark`: which packets get which mark. Services by mark (`ipvsadm -A -f MARK`) take packets by these rules:
//! XDP runs before the packet filter, which cannot have marked them yet.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Pins;
use crate::control::import::import;
use crate::control::mark::{self, Net, Ports, Rule};
use crate::control::model::Proto;
use crate::control::refusal::Refusal;
use crate::control::store::Store;

/// Say which packets get which mark, for services by mark
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    act: Act,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Act {
    /// Add a rule after those there are; the first that matches a packet gives its mark
    Add {
        #[command(flatten)]
        rule: RuleArgs,
        #[command(flatten)]
        pins: Pins,
    },
    /// Delete the rule that was added in the same words
    Del {
        #[command(flatten)]
        rule: RuleArgs,
        #[command(flatten)]
        pins: Pins,
    },
    /// List the rules, the first that matches first
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        pins: Pins,
    },
    /// Add the MARK rules out of `iptables-save`, `ip6tables-save` or `nft -j list ruleset`
    Import {
        /// What they printed [default: standard input]
        file: Option<PathBuf>,
        #[command(flatten)]
        pins: Pins,
    },
}

/// A rule.
#[derive(Clone, Debug, clap::Args)]
pub struct RuleArgs {
    /// The mark, 1 to 4294967295, or hexadecimal with 0x
    #[arg(long, value_name = "N", value_parser = mark::mark)]
    mark: u32,
    /// Destination address or net
    #[arg(long, value_name = "ADDR[/LEN]")]
    dst: Net,
    /// tcp, udp or sctp [default: all three]
    #[arg(long, value_parser = mark::proto)]
    proto: Option<Proto>,
    /// Destination port, or the first and the last
    #[arg(long, value_name = "A[-B]")]
    dport: Option<Ports>,
    /// Source address or net
    #[arg(long, value_name = "ADDR[/LEN]")]
    src: Option<Net>,
}

impl RuleArgs {
    /// As a value.
    pub fn rule(&self) -> Result<Rule, Refusal> {
        let any = Rule::to(self.mark, self.dst);
        let src = self.src.unwrap_or(any.src);
        if src.family() != any.src.family() {
            let (dst, src) = (self.dst, src);
            return Err(Refusal::Failed(format!("--dst {dst} and --src {src} are of different families")));
        }
        Ok(Rule { src, proto: self.proto, dports: self.dport.unwrap_or(any.dports), ..any })
    }
}

/// Adds a rule at the end.
pub fn add(store: &mut impl Store, rule: Rule) -> Result<(), Refusal> {
    store.change_marks(&mut |rules| match rules.iter().find(|other| other.same_packets(&rule)) {
        Some(other) => Err(Refusal::Failed(format!(
            "there is a rule for these packets already: `lb-user mark del {other}` deletes it"
        ))),
        None => {
            rules.push(rule);
            Ok(())
        }
    })
}

fn del(store: &mut impl Store, rule: Rule) -> Result<(), Refusal> {
    let missing = || Refusal::Failed(format!("there is no rule {rule} (`lb-user mark list` lists them)"));
    if !store.marks()?.contains(&rule) {
        return Err(missing());
    }
    store.change_marks(&mut |rules| {
        let at = rules.iter().position(|other| *other == rule).ok_or_else(missing)?;
        rules.remove(at);
        Ok(())
    })
}

fn take(store: &mut impl Store, file: Option<&PathBuf>) -> Result<()> {
    let text = match file {
        Some(file) => fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?,
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
            text
        }
    };
    let found = import(&text).map_err(anyhow::Error::msg)?;
    for line in &found.refused {
        eprintln!("not taken: {line}");
    }
    let mut added = String::new();
    let fresh = found.rules.iter().filter(|rule| !store.marks().is_ok_and(|all| all.contains(rule)));
    let fresh: Vec<Rule> = fresh.copied().collect();
    store.change_marks(&mut |rules| {
        added.clear();
        for rule in &fresh {
            rules.push(*rule);
            let _ = writeln!(added, "{rule}");
        }
        Ok(())
    })?;
    std::io::stdout().write_all(added.as_bytes())?;
    ensure!(!found.rules.is_empty() || found.refused.is_empty(), "none of the rules can be had");
    Ok(())
}

/// Does it.
pub fn run(args: &Args) -> Result<()> {
    let open = |pins: &Pins| super::open_store_at(pins);
    match &args.act {
        Act::Add { rule, pins } => Ok(add(&mut open(pins)?, rule.rule()?)?),
        Act::Del { rule, pins } => Ok(del(&mut open(pins)?, rule.rule()?)?),
        Act::Import { file, pins } => take(&mut open(pins)?, file.as_ref()),
        Act::List { json, pins } => {
            let rules = open(pins)?.marks()?;
            let text = if *json {
                format!("{:#}\n", Value::from(rules.iter().map(Rule::json).collect::<Vec<_>>()))
            } else {
                rules.iter().map(|rule| format!("{rule}\n")).collect()
            };
            Ok(std::io::stdout().write_all(text.as_bytes())?)
        }
    }
}
