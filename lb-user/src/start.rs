//! From the words a process was started with to the tool that is meant: by the program's own name, or by the first
//! word.

use std::ffi::OsString;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::process::ExitCode;

use crate::cli::help;
use crate::cli::names::SystemNames;
use crate::cli::run::{Session, Streams, unreachable};
use crate::control::balancer::Balancer;
use crate::control::refusal::Refusal;
use crate::privilege;
use crate::verbs;

/// Bytes of a listing written at a time.
const OUT: usize = 1 << 16;

/// Which tool is meant, and its words.
#[derive(Debug, PartialEq, Eq)]
pub enum Tool {
    /// ipvsadm's grammar.
    Ipvsadm {
        /// The name messages use.
        program: String,
        /// The words after it.
        words: Vec<String>,
        /// Called as lb-user: help shows the other verbs, and works without the balancer.
        with_verbs: bool,
    },
    /// ipvsadm-save.
    Save {
        /// The script's name in its help.
        script: String,
        /// The words after it.
        words: Vec<String>,
    },
    /// ipvsadm-restore, which looks at no words.
    Restore,
    /// One of lb-user's own verbs.
    Verb,
}

impl Tool {
    /// Decides.
    pub fn of(argv: &[String]) -> Self {
        let program = argv.first().map_or("lb-user", String::as_str);
        let words = argv.get(1..).unwrap_or_default();
        if let Some(tool) = Self::named(base_name(program), program, words) {
            return tool;
        }
        match words.split_first() {
            // What every other tool has.
            Some((first, [])) if first == "help" => {
                Self::Ipvsadm { program: program.to_owned(), words: vec!["-h".to_owned()], with_verbs: true }
            }
            Some((first, rest)) if !first.starts_with('-') => {
                Self::named(first, &format!("{program} {first}"), rest).unwrap_or(Self::Verb)
            }
            Some(_) => {
                Self::Ipvsadm { program: program.to_owned(), words: words.to_owned(), with_verbs: true }
            }
            // What ipvsadm would take for a listing: a newcomer wants to know what there is.
            None => {
                Self::Ipvsadm { program: program.to_owned(), words: vec!["-h".to_owned()], with_verbs: true }
            }
        }
    }

    /// The name messages use. The scripts call ipvsadm by its name.
    fn program(&self) -> &str {
        match self {
            Self::Ipvsadm { program, .. } => program,
            _ => "ipvsadm",
        }
    }

    fn with_verbs(&self) -> bool {
        matches!(self, Self::Ipvsadm { with_verbs: true, .. })
    }

    fn named(name: &str, program: &str, words: &[String]) -> Option<Self> {
        match name {
            "ipvsadm" => Some(Self::Ipvsadm {
                program: program.to_owned(),
                words: words.to_owned(),
                with_verbs: false,
            }),
            "ipvsadm-save" => Some(Self::Save { script: name.to_owned(), words: words.to_owned() }),
            "ipvsadm-restore" => Some(Self::Restore),
            _ => None,
        }
    }
}

fn base_name(program: &str) -> &str {
    Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or(program)
}

/// Runs the process. Words that are no UTF-8 can only be wrong; they are shown as well as they can be.
pub fn main(argv: impl Iterator<Item = OsString>) -> ExitCode {
    let argv: Vec<String> = argv.map(|word| word.to_string_lossy().into_owned()).collect();
    let tool = Tool::of(&argv);
    if tool == Tool::Verb {
        return verbs::main(&argv);
    }
    if let Some(text) = free_text(&tool) {
        return print(&text);
    }
    ExitCode::from(with_store(&tool))
}

/// What needs no balancer. ipvsadm itself reaches for it even to print its help, and so do we under its name.
fn free_text(tool: &Tool) -> Option<String> {
    let Tool::Ipvsadm { program, words, with_verbs: true } = tool else { return None };
    match words.first().map(String::as_str) {
        Some("-h" | "--help") => Some(help::help(program, &verbs::usage(program))),
        Some("-v" | "--version") => {
            Some(format!("{}\nlb-user {}\n", help::VERSION, env!("CARGO_PKG_VERSION")))
        }
        _ => None,
    }
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

fn with_store(tool: &Tool) -> u8 {
    let opened = if privilege::have() { verbs::open_store() } else { Err(Refusal::Permission) };
    let mut balancer = match opened {
        Ok(store) => Balancer::new(store),
        Err(why) => return unreachable(&why, &mut io::stderr()),
    };
    let verbs = verbs::usage(tool.program());
    let streams = Streams {
        input: &mut io::stdin().lock(),
        out: &mut BufWriter::with_capacity(OUT, io::stdout().lock()),
        err: &mut io::stderr(),
    };
    let mut session = Session {
        program: tool.program(),
        verbs: if tool.with_verbs() { &verbs } else { "" },
        balancer: &mut balancer,
        names: &SystemNames::default(),
        streams,
    };
    match tool {
        Tool::Save { script, words } => session.save_script(script, words),
        Tool::Restore => session.restore_script(),
        Tool::Ipvsadm { words, .. } => session.ipvsadm(words),
        Tool::Verb => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::Tool;

    fn tool(line: &str) -> Tool {
        Tool::of(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    fn ipvsadm(program: &str, words: &[&str], with_verbs: bool) -> Tool {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Tool::Ipvsadm { program: program.to_owned(), words, with_verbs }
    }

    #[test]
    fn by_name_or_first_word() {
        assert_eq!(tool("/sbin/ipvsadm -Ln"), ipvsadm("/sbin/ipvsadm", &["-Ln"], false));
        assert_eq!(tool("ipvsadm"), ipvsadm("ipvsadm", &[], false));
        assert_eq!(tool("ipvsadm attach"), ipvsadm("ipvsadm", &["attach"], false));
        assert_eq!(tool("lb-user -Ln"), ipvsadm("lb-user", &["-Ln"], true));
        assert_eq!(tool("lb-user ipvsadm -Ln"), ipvsadm("lb-user ipvsadm", &["-Ln"], false));
        assert_eq!(tool("./lb-user"), ipvsadm("./lb-user", &["-h"], true));
        assert_eq!(tool("lb-user help"), ipvsadm("lb-user", &["-h"], true));
        assert_eq!(tool("lb-user attach eth0"), Tool::Verb);
        assert_eq!(tool("/sbin/ipvsadm-restore -n"), Tool::Restore);
        assert_eq!(tool("lb-user ipvsadm-restore"), Tool::Restore);
        let save = Tool::Save { script: "ipvsadm-save".to_owned(), words: vec!["-n".to_owned()] };
        assert_eq!(tool("/sbin/ipvsadm-save -n"), save);
    }
}
