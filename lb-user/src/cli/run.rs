//! One command line from beginning to end, and the two scripts: words in, text and exit status out.
//!
//! Everything is handed in (tables, names, streams), so tests go the very way of the program.

use std::io::{self, BufRead, Write};

use super::complaint::Complaint;
use super::help;
use super::list::{Lister, Shape};
use super::names::Names;
use super::parse::{Source, parse};
use super::request::{Asked, What, asked};
use super::save;
use super::sort::sort;
use crate::control::balancer::Balancer;
use crate::control::model::Service;
use crate::control::refusal::Refusal;
use crate::control::request::Request;
use crate::control::store::Store;

/// The balancer refused a change.
const REFUSED: u8 = 255;
/// A listing failed.
const UNLISTED: u8 = 1;

/// The streams of a command.
pub struct Streams<'a> {
    /// What `-R` reads.
    pub input: &'a mut dyn BufRead,
    /// Listings.
    pub out: &'a mut dyn Write,
    /// Complaints.
    pub err: &'a mut dyn Write,
}

/// What one command line runs in.
pub struct Session<'a, S> {
    /// The name messages use.
    pub program: &'a str,
    /// What help says besides ipvsadm's own: the program's other verbs.
    pub verbs: &'a str,
    /// The tables and their rules.
    pub balancer: &'a mut Balancer<S>,
    /// Who knows names.
    pub names: &'a dyn Names,
    /// The streams.
    pub streams: Streams<'a>,
}

/// How a line ended.
enum End {
    /// With this status; a restore goes on.
    Status(u8),
    /// With this status, and nothing may follow.
    Quit(u8),
}

impl End {
    fn status(&self) -> u8 {
        match self {
            Self::Status(status) | Self::Quit(status) => *status,
        }
    }
}

/// Why there is nothing to see.
enum Failure {
    Refused(Refusal),
    Unwritten(io::Error),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Unwritten(error)
    }
}

impl<S: Store> Session<'_, S> {
    /// `ipvsadm WORDS…`; the exit status.
    pub fn ipvsadm(&mut self, words: &[String]) -> u8 {
        let end = self.line(words, Source::Arguments);
        self.flushed(end).status()
    }

    /// `ipvsadm-save WORDS…`: knows `-n` only, and minds nothing that is no option.
    pub fn save_script(&mut self, script: &str, words: &[String]) -> u8 {
        if words.iter().any(|word| word.starts_with('-') && word != "-n") {
            self.complain(&format!(
                "{script}: Script to save the IPVS table to stdout.\n   \
                 With the -n option, prints out the table in numeric format."
            ));
            return 1;
        }
        let numeric = words.iter().any(|word| word == "-n");
        let end = self.show(|session| session.save(numeric));
        self.flushed(end).status()
    }

    /// `ipvsadm-restore`: the table is cleared, then the lines are run, all in one batch.
    pub fn restore_script(&mut self) -> u8 {
        let mut text = Vec::new();
        if let Err(error) = self.streams.input.read_to_end(&mut text) {
            return self.unread(&error).status();
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        let end = self.batch(|session| {
            let cleared = session.change(&Request::Clear);
            if cleared.status() != 0 {
                // Tables that cannot be cleared cannot be filled either: that is said once.
                return cleared;
            }
            let mut lines = text.lines().filter(|line| !save::is_comment(line));
            session.lines(|_| Ok(lines.next().map(str::to_owned)))
        });
        self.flushed(end).status()
    }

    fn line(&mut self, words: &[String], source: Source) -> End {
        match parse(words, source, self.names).and_then(|said| asked(&said)) {
            Ok(asked) => self.run(&asked),
            Err(complaint) => self.complaint(&complaint),
        }
    }

    fn run(&mut self, asked: &Asked) -> End {
        match asked {
            Asked::Change(request) => self.change(request),
            Asked::List(what, shape) => self.show(|session| session.list(what, *shape)),
            Asked::Save { numeric } => self.show(|session| session.save(*numeric)),
            Asked::Restore => self.batch(|session| session.lines(read_line)),
            Asked::Help => self.print_and_quit(&help::help(self.program, self.verbs)),
            Asked::Version => self.print_and_quit(&format!("{}\n", help::VERSION)),
        }
    }

    fn change(&mut self, request: &Request) -> End {
        match self.balancer.apply(request) {
            Ok(()) => End::Status(0),
            Err(refusal) => self.refused(&refusal),
        }
    }

    /// Runs lines until there are no more or one of them ends it all. The status is that of the last one.
    fn lines(&mut self, mut next: impl FnMut(&mut Streams<'_>) -> io::Result<Option<String>>) -> End {
        let mut last = End::Status(0);
        loop {
            let words = match next(&mut self.streams) {
                Ok(Some(line)) => save::words(&line),
                Ok(None) => return last,
                Err(error) => return self.unread(&error),
            };
            if words.is_empty() {
                continue;
            }
            let end = self.line(&words, Source::Restore);
            last = self.flushed(end);
            if let End::Quit(_) = last {
                return last;
            }
        }
    }

    /// Holds changes back until `body` has ended, well or not: lines before a wrong one stay in force.
    fn batch(&mut self, body: impl FnOnce(&mut Self) -> End) -> End {
        if let Err(refusal) = self.balancer.store_mut().begin() {
            return self.refused(&refusal);
        }
        let end = body(self);
        match self.balancer.store_mut().commit() {
            Ok(()) => end,
            Err(refusal) => self.refused(&refusal),
        }
    }

    fn list(&mut self, what: &What, shape: Shape) -> Result<(), Failure> {
        let store = self.balancer.store();
        let lister = |out| Lister::new(shape, self.names, out);
        let out = &mut *self.streams.out;
        match what {
            What::Services => {
                let (size, services) = (store.table_size(), in_order(store.services()?, shape.sorted));
                lister(out).services(Some(size), &services)?;
            }
            What::Service(id) => {
                let service = in_order(vec![self.balancer.service(id)?], shape.sorted);
                lister(out).services(None, &service)?;
            }
            What::Conns => lister(out).conns(&store.conns()?)?,
            What::Timeouts => lister(out).timeouts(&store.timeouts()?)?,
            What::Daemons => lister(out).daemons(&store.daemons()?)?,
        }
        Ok(())
    }

    fn save(&mut self, numeric: bool) -> Result<(), Failure> {
        let services = in_order(self.balancer.store().services()?, true);
        Ok(save::write(&services, numeric, self.names, self.streams.out)?)
    }

    /// A listing that fails ends a restore too.
    fn show(&mut self, body: impl FnOnce(&mut Self) -> Result<(), Failure>) -> End {
        match body(self) {
            Ok(()) => End::Status(0),
            Err(Failure::Refused(refusal)) => {
                self.complain(&refusal.to_string());
                End::Quit(UNLISTED)
            }
            Err(Failure::Unwritten(error)) => self.unwritten(&error),
        }
    }

    fn print_and_quit(&mut self, text: &str) -> End {
        match self.streams.out.write_all(text.as_bytes()) {
            Ok(()) => End::Quit(0),
            Err(error) => self.unwritten(&error),
        }
    }

    fn flushed(&mut self, end: End) -> End {
        match self.streams.out.flush() {
            Ok(()) => end,
            Err(error) => self.unwritten(&error),
        }
    }

    /// Whoever closed the pipe has seen enough.
    fn unwritten(&mut self, error: &io::Error) -> End {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return End::Quit(0);
        }
        self.complain(&format!("cannot write the listing: {error}"));
        End::Quit(UNLISTED)
    }

    fn unread(&mut self, error: &io::Error) -> End {
        self.complain(&format!("cannot read the command lines on stdin: {error}"));
        End::Quit(UNLISTED)
    }

    fn refused(&mut self, refusal: &Refusal) -> End {
        self.complain(&refusal.to_string());
        End::Status(REFUSED)
    }

    fn complaint(&mut self, complaint: &Complaint) -> End {
        self.complain(&complaint.text(self.program));
        let status = complaint.status();
        if complaint.ends_restore() { End::Quit(status) } else { End::Status(status) }
    }

    /// Where nobody reads complaints, there is nobody left to tell.
    fn complain(&mut self, text: &str) {
        let _ = writeln!(self.streams.err, "{text}");
    }
}

/// The next line of a restore. What is no UTF-8 can only be a wrong word: it becomes one.
fn read_line(streams: &mut Streams<'_>) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let length = streams.input.read_until(b'\n', &mut line)?;
    Ok((length > 0).then(|| String::from_utf8_lossy(&line).into_owned()))
}

fn in_order(mut services: Vec<Service>, sorted: bool) -> Vec<Service> {
    if sorted {
        sort(&mut services);
    }
    services
}

/// What a command says that cannot reach the balancer at all, before it has looked at a single word; its status.
/// Without the right to, in ipvsadm's two lines; for other reasons the second one would lead astray.
pub fn unreachable(why: &Refusal, err: &mut dyn Write) -> u8 {
    let _ = writeln!(err, "Can't initialize ipvs: {why}");
    if *why == Refusal::Permission {
        let _ = writeln!(err, "Are you sure that IP Virtual Server is built in the kernel or as module?");
    }
    2
}
