//! Help and the manual page, from the table of options.

use std::fmt::Write as _;

use super::options::{Argument, OPTIONS, Opt, Section};

/// What `-v` prints: scripts look at it to learn which ipvsadm they talk to, so it names the one whose command line
/// this is.
pub const VERSION: &str = "ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v1.2.1)";

/// Where the explanations of options start.
const COLUMN: usize = 36;
/// And those of commands.
const COMMAND_COLUMN: usize = 28;

/// One line per form of the command line, without the program's name.
const USAGE: [&str; 13] = [
    "-A|E virtual-service [-s scheduler] [-p [timeout]] [-M netmask] [--pe persistence_engine] [-b sched-flags]",
    "-D virtual-service",
    "-C",
    "-R",
    "-S [-n]",
    "-a|e virtual-service -r server-address [options]",
    "-d virtual-service -r server-address",
    "-L|l [virtual-service] [options]",
    "-Z [virtual-service]",
    "--set tcp tcpfin udp",
    "--start-daemon {master|backup} [daemon-options]",
    "--stop-daemon {master|backup}",
    "-h",
];

/// The help text for a program of this name. `verbs` comes after the usage: what else the program can do.
pub fn help(program: &str, verbs: &str) -> String {
    let mut text = format!("{VERSION}\nUsage:\n");
    for line in USAGE {
        let _ = writeln!(text, "  {program} {line}");
    }
    text.push_str(verbs);
    text.push_str("\nCommands:\nEither long or short options are allowed.\n");
    section(&mut text, Section::Commands, COMMAND_COLUMN, command_spelling);
    text.push_str("\nvirtual-service:\n");
    section(&mut text, Section::Services, COLUMN, service_spelling);
    text.push_str("\nOptions:\n");
    section(&mut text, Section::Options, COLUMN, option_spelling);
    text.push_str("Daemon Options:\n");
    section(&mut text, Section::Daemons, COLUMN, daemon_spelling);
    text
}

fn section(text: &mut String, section: Section, column: usize, spelling: fn(&Opt) -> String) {
    for opt in OPTIONS.iter().filter(|opt| opt.section == section) {
        let mut lines = opt.help.lines();
        let _ = writeln!(text, "  {:<column$}{}", spelling(opt), lines.next().unwrap_or_default());
        for line in lines {
            let _ = writeln!(text, "  {:<column$}{line}", "");
        }
    }
}

fn command_spelling(opt: &Opt) -> String {
    let also = if opt.long == "list" { "|-l" } else { "" };
    match (opt.short, opt.argument) {
        (Some(letter), _) => format!("--{:<16}-{letter}{also}", opt.long),
        (None, _) if opt.long == "set" => "--set tcp tcpfin udp".to_owned(),
        (None, _) => format!("--{}", opt.long),
    }
}

fn service_spelling(opt: &Opt) -> String {
    let spelling = match opt.short {
        Some(letter) => format!("--{}|-{letter}", opt.long),
        None => format!("--{}", opt.long),
    };
    format!("{spelling:<17} {}", argument(opt.argument))
}

fn option_spelling(opt: &Opt) -> String {
    let argument = argument(opt.argument);
    match opt.short {
        Some(letter) => format!("--{:<12} -{letter} {argument}", opt.long),
        None => format!("--{:<13} {argument}", opt.long),
    }
}

fn daemon_spelling(opt: &Opt) -> String {
    format!("--{} {}", opt.long, argument(opt.argument))
}

fn argument(argument: Argument) -> String {
    match argument {
        Argument::No => String::new(),
        Argument::Needs(name) => name.to_owned(),
        Argument::Takes(name) => format!("[{name}]"),
    }
}

/// The manual page ipvsadm(8), in man(7) macros.
pub fn manual() -> String {
    let mut text = String::from(
        ".TH IPVSADM 8 \"\" \"lb-user\" \"IPVS in XDP\"\n.SH NAME\nipvsadm \\- set up, keep and inspect the \
         balancer's table\n.SH SYNOPSIS\n.nf\n",
    );
    for line in USAGE {
        let _ = writeln!(text, "ipvsadm {}", escaped(line));
    }
    text.push_str(
        ".fi\n.SH DESCRIPTION\nThe grammar, listings, messages and exit statuses of ipvsadm 1.31, over a balancer that \
         runs in XDP.\nThe first option must be the command.\nStatus 0: done; 1: a listing failed; 2: a wrong argument; \
         255: the balancer refused the change, or the line does not begin with a command.\n",
    );
    for (title, section) in [
        ("COMMANDS", Section::Commands),
        ("VIRTUAL SERVICE", Section::Services),
        ("OPTIONS", Section::Options),
        ("DAEMON OPTIONS", Section::Daemons),
    ] {
        let _ = writeln!(text, ".SH {title}");
        for opt in OPTIONS.iter().filter(|opt| opt.section == section) {
            manual_entry(&mut text, opt);
        }
    }
    text.push_str(".SH SEE ALSO\nlb-user(8)\n");
    text
}

fn manual_entry(text: &mut String, opt: &Opt) {
    let short = opt.short.map_or(String::new(), |letter| format!("-{letter}, "));
    let argument = argument(opt.argument);
    let spelling = format!("{short}--{} {argument}", opt.long);
    let _ = writeln!(text, ".TP\n.B {}\n{}", escaped(spelling.trim_end()), escaped(opt.help));
}

/// A minus sign has to be told from a hyphen.
fn escaped(text: &str) -> String {
    text.replace('-', "\\-")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What scripts look for in the help of ipvsadm: spellings, in its columns.
    #[test]
    fn laid_out_as_ipvsadm() {
        let help = help("ipvsadm", "");
        for start in [
            "  ipvsadm -A|E virtual-service [-s scheduler] [-p [timeout]] [-M netmask]",
            "  --add-service     -A        ",
            "  --list            -L|-l     ",
            "  --set tcp tcpfin udp        ",
            "  --start-daemon              ",
            "  --tcp-service|-t  service-address   ",
            "  --sctp-service    service-address   ",
            "  --fwmark-service|-f fwmark          ",
            "  --ipv6         -6                   ",
            "  --scheduler    -s scheduler         ",
            "  --pe            engine              ",
            "  --persistent   -p [timeout]         ",
            "  --masquerading -m                   ",
            "  --tun-type      type                ",
            "  --tun-nocsum                        ",
            "  --u-threshold  -x uthreshold        ",
            "  --persistent-conn                   ",
            "  --syncid sid                        ",
            "  --mcast-interface interface         ",
        ] {
            assert!(
                help.lines().any(|line| line.starts_with(start)),
                "no line starts with {start:?} in:\n{help}"
            );
        }
    }

    #[test]
    fn manual_names_every_option() {
        let manual = manual();
        for opt in OPTIONS.iter().filter(|opt| opt.section != Section::Unseen) {
            assert!(
                manual.contains(&escaped(&format!("--{}", opt.long))),
                "{} is not in the manual",
                opt.long
            );
        }
    }
}
