//! A balancer in memory, run through the program's own entry point; and the golden files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failing test should say so where it happens"
)]
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::Path;

use lb_user::cli::names::FixedNames;
use lb_user::cli::run::{Session, Streams};
use lb_user::control::balancer::Balancer;
use lb_user::control::memory::MemoryStore;
use lb_user::control::model::{DestId, End, Port, Proto, ServiceId};

/// What a command left behind.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub out: String,
    pub err: String,
    pub status: u8,
}

/// A balancer.
pub struct Desk {
    pub balancer: Balancer<MemoryStore>,
}

impl Desk {
    pub fn new() -> Self {
        Self { balancer: Balancer::new(MemoryStore::default()) }
    }

    /// Runs `ipvsadm WORDS…`, `ipvsadm-save WORDS…` or `ipvsadm-restore`.
    pub fn run_words(&mut self, words: &[String], input: &str) -> Outcome {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut session = Session {
            program: "ipvsadm",
            verbs: "",
            balancer: &mut self.balancer,
            names: &FixedNames,
            streams: Streams { input: &mut input.as_bytes(), out: &mut out, err: &mut err },
        };
        let (tool, words) = words.split_first().expect("no tool named");
        let status = match tool.as_str() {
            "ipvsadm" => session.ipvsadm(words),
            "ipvsadm-save" => session.save_script(tool, words),
            "ipvsadm-restore" => session.restore_script(),
            other => panic!("no such tool: {other}"),
        };
        Outcome { out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap(), status }
    }

    pub fn run_with(&mut self, line: &str, input: &str) -> Outcome {
        self.run_words(&words(line), input)
    }

    pub fn run(&mut self, line: &str) -> Outcome {
        self.run_with(line, "")
    }

    /// Runs a command that succeeds; what it printed.
    pub fn ok(&mut self, line: &str) -> String {
        let outcome = self.run(line);
        assert!(outcome.status == 0 && outcome.err.is_empty(), "{line}\n{outcome:?}");
        outcome.out
    }

    /// Runs `ipvsadm -R` over lines that succeed.
    pub fn restore(&mut self, lines: &str) {
        let outcome = self.run_with("ipvsadm -R", lines);
        assert!(outcome.status == 0 && outcome.err.is_empty(), "{lines}\n{outcome:?}");
    }
}

/// Splits at blanks; `''` is an empty word.
pub fn words(line: &str) -> Vec<String> {
    line.split(' ')
        .filter(|word| !word.is_empty())
        .map(|word| if word == "''" { "" } else { word }.to_owned())
        .collect()
}

/// One case of a golden file.
#[derive(Debug, Default)]
pub struct Case {
    /// Line of the file, for messages.
    pub at: usize,
    pub line: String,
    pub out: String,
    pub err: String,
    pub status: u8,
}

/// The set-up lines and cases of `golden/NAME`. Its first comment tells the format.
pub fn golden(name: &str) -> (Vec<String>, Vec<Case>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut setup, mut cases) = (Vec::new(), Vec::<Case>::new());
    for (at, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line)) {
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        let case = cases.last_mut();
        match (mark, case) {
            ("setup:", _) => setup.push(rest.to_owned()),
            ("$", _) => cases.push(Case { at, line: rest.to_owned(), ..Case::default() }),
            (">", Some(case)) => case.out += &format!("{}\n", rest.replace('·', " ")),
            ("!", Some(case)) => case.err += &format!("{rest}\n"),
            ("=", Some(case)) => case.status = rest.parse().expect("a status"),
            ("" | "#" | "##", _) => {}
            _ => panic!("{}:{at}: not understood: {line}", path.display()),
        }
    }
    (setup, cases)
}

/// Compares texts and shows both in full if they differ, ends of lines marked.
pub fn assert_same(what: &str, got: &str, expected: &str) {
    let marked = |text: &str| text.replace('\n', "$\n");
    assert!(got == expected, "{what}\n--- got\n{}--- expected\n{}", marked(got), marked(expected));
}

pub fn service(proto: Proto, addr: &str, port: u16) -> ServiceId {
    ServiceId::Addr { proto, addr: addr.parse().unwrap(), port: Port::new(port) }
}

pub fn dest(addr: &str, port: u16) -> DestId {
    DestId { addr: addr.parse().unwrap(), port: Port::new(port) }
}

pub fn end(addr: &str, port: u16) -> End {
    End { addr: addr.parse().unwrap(), port: Port::new(port) }
}

/// An address and a port.
pub type EndText = (&'static str, u16);
