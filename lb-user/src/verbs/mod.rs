//! What ipvsadm has no words for: lb-user's own verbs, one file each. These are read by clap.

pub mod agent;
pub mod attach;
pub mod check_config;
pub mod detach;
pub mod diff;
pub mod drain;
pub mod man;
pub mod mark;
pub mod realserver;
pub mod save;
pub mod status;
pub mod sync_daemon;
pub mod sysctl;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::bpf::store::BpfStore;
use crate::control::refusal::Result;
use crate::control::store::Store;
use crate::privilege;

/// IPVS in XDP: a load balancer with ipvsadm's commands.
#[derive(Debug, Parser)]
#[command(version, disable_help_subcommand = true)]
#[command(after_help = "Services and real servers are set up in ipvsadm's words: see `lb-user -h`.")]
struct Line {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Attach(attach::Args),
    Detach(detach::Args),
    Status(status::Args),
    Realserver(realserver::Args),
    Mark(mark::Args),
    Sysctl(sysctl::Args),
    Drain(drain::Args),
    Save(save::SaveArgs),
    Restore(save::RestoreArgs),
    Agent(agent::Args),
    SyncDaemon(sync_daemon::Args),
    CheckConfig(check_config::Args),
    Diff(diff::Args),
    Man(man::Args),
}

/// Where the maps are pinned.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Pins {
    /// The BPF file system the maps are pinned in [default: $LB_USER_BPFFS, else /sys/fs/bpf]
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
}

impl Pins {
    /// The directory that was asked for, by option or by environment.
    pub fn wanted(&self) -> Option<PathBuf> {
        let named = || std::env::var_os("LB_USER_BPFFS").filter(|dir| !dir.is_empty());
        self.bpffs.clone().or_else(|| named().map(PathBuf::from))
    }
}

/// The tables that ipvsadm's commands work on.
pub fn open_store() -> Result<impl Store> {
    open_store_at(&Pins::default())
}

/// Those with pins in this place.
fn open_store_at(pins: &Pins) -> Result<BpfStore> {
    Ok(BpfStore::new(pins.wanted().as_deref())?)
}

/// Prints what was done, a line each.
fn say(lines: &[String]) -> anyhow::Result<()> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// Runs a verb; errors are one line.
pub fn main(argv: &[String]) -> ExitCode {
    let verb = Line::parse_from(argv).verb;
    if !matches!(verb, Verb::Man(_) | Verb::CheckConfig(_)) && !privilege::have() {
        eprintln!("{}", privilege::lack());
        return ExitCode::FAILURE;
    }
    let ran = match verb {
        Verb::Attach(args) => attach::run(&args),
        Verb::Detach(args) => detach::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Realserver(args) => realserver::run(&args),
        Verb::Mark(args) => mark::run(&args),
        Verb::Sysctl(args) => sysctl::run(&args),
        Verb::Save(args) => save::run(&args),
        Verb::Restore(args) => save::run_restore(&args),
        Verb::Agent(args) => agent::run(&args),
        Verb::SyncDaemon(args) => sync_daemon::run(&args),
        Verb::Drain(args) => return ended(drain::run(&args)),
        Verb::Diff(args) => return ended(diff::run(&args)),
        Verb::CheckConfig(args) => return ended(check_config::run(&args)),
        Verb::Man(args) => man::run(&args),
    };
    ended(ran.map(|()| ExitCode::SUCCESS))
}

/// The exit status of a verb; an error is one line.
fn ended(ran: anyhow::Result<ExitCode>) -> ExitCode {
    match ran {
        Ok(status) => status,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The verbs, for ipvsadm's help: one line each, with what clap knows about them.
pub fn usage(program: &str) -> String {
    let verbs = Line::command();
    let line = |verb: &clap::Command| {
        let usage = verb.clone().render_usage().to_string();
        let words = usage.trim_start_matches("Usage: ");
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        format!("  {:<40}  {about}\n", format!("{program} {words}"))
    };
    format!(
        "\nVerbs (`{program} VERB --help` tells more):\n{}",
        verbs.get_subcommands().map(line).collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_agrees() {
        Line::command().debug_assert();
    }

    #[test]
    fn contract() {
        for line in [
            "lb-user attach eth0",
            "lb-user attach eth0 eth1 --mode native --connections 1000000 --bpffs /tmp/bpf",
            "lb-user attach eth0 --connections-v6 250000 --dests 32768",
            "lb-user detach",
            "lb-user detach eth0 --purge",
            "lb-user detach --grace 30",
            "lb-user status --json",
            "lb-user drain",
            "lb-user drain 10.1.0.2",
            "lb-user drain -t 10.0.0.1:80 10.1.0.2:80 --wait --timeout 30",
            "lb-user drain -f 5 --undo fd00::2",
            "lb-user mark add --mark 1 --dst 10.0.0.0/24 --proto tcp --dport 80-90 --src 10.0.0.0/8",
            "lb-user mark del --mark 0x1 --dst fd00::1 --bpffs /tmp/bpf",
            "lb-user mark list --json",
            "lb-user mark import rules",
            "lb-user sync-daemon master --interface eth1 --syncid 5 --group ff02::81 --ttl 2",
            "lb-user sync-daemon backup",
            "lb-user agent -f k.conf --metrics 9110",
            "lb-user agent --metrics [::]:9110",
        ] {
            assert!(Line::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "lb-user attach",
            "lb-user attach eth0 --mode fast",
            "lb-user attach eth0 --connections 0",
            "lb-user attach eth0 --dests 1048577",
            "lb-user mark add --mark 0 --dst ::1",
            "lb-user drain --undo",
            "lb-user drain --wait",
            "lb-user drain 10.1.0.2 --timeout 3",
            "lb-user drain 10.1.0.2 --undo --wait",
            "lb-user drain -t 10.0.0.1:80 -u 10.0.0.1:80 10.1.0.2",
            "lb-user mark add --mark 1",
            "lb-user sync-daemon",
            "lb-user sync-daemon slave",
            "lb-user sync-daemon master --group 10.0.0.1",
            "lb-user sync-daemon master --syncid 256",
            "lb-user sync-daemon master --ttl 0",
            "lb-user agent --metrics eth0",
        ] {
            assert!(Line::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn verbs_are_in_the_help() {
        let usage = usage("lb-user");
        for verb in ["attach", "detach", "status", "mark", "sysctl", "drain", "save", "restore", "man"] {
            assert!(usage.contains(&format!("  lb-user {verb} ")), "{usage}");
        }
    }
}
