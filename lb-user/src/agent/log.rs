//! The log, on standard error: a line an event, as text or JSON. In front of a line for the journal stands its priority, as
//! sd-daemon(3) has it; the journal adds the time.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::debug_fn;

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// keepalived's lines
    #[default]
    Text,
    /// An object a line, with the same line as `message` and what it is about in fields of its own
    Json,
}

/// From here on events are logged: from level info up, or as `LB_USER_LOG` has it.
pub fn start(format: Format) {
    let filter = EnvFilter::try_from_env("LB_USER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let journal = is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    let lines = lines.with_writer(Stderr { journal }).with_ansi(io::stderr().is_terminal());
    // A second logger in one process would be refused; there is none.
    let _ = match format {
        Format::Json => lines.json().flatten_event(true).try_init(),
        Format::Text => {
            let lines = lines.fmt_fields(debug_fn(|out, field, value| match field.name() {
                "message" => write!(out, "{value:?}"),
                // The message has it in words.
                _ => Ok(()),
            }));
            if journal { lines.without_time().with_level(false).try_init() } else { lines.try_init() }
        }
    };
}

/// Is standard error what systemd has connected to the journal? `stream`: device and inode of that.
fn is_journal(stream: Option<&str>) -> bool {
    let Ok(stat) = rustix::fs::fstat(io::stderr()) else { return false };
    stream == Some(&format!("{}:{}", stat.st_dev, stat.st_ino))
}

#[derive(Clone, Copy)]
struct Stderr {
    journal: bool,
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { priority: None }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
        Line { priority: self.journal.then(|| priority(*meta.level())) }
    }
}

/// syslog's numbers.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// One event.
struct Line {
    priority: Option<u8>,
}

impl Write for Line {
    /// Called once with a whole event, which becomes one write, lest lines of two threads mix.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut whole = String::new();
        if let Some(priority) = self.priority {
            let _ = write!(whole, "<{priority}>");
        }
        let whole = [whole.as_bytes(), line].concat();
        io::stderr().lock().write_all(&whole).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_stream_itself_is_the_journal() {
        let stat = rustix::fs::fstat(io::stderr()).unwrap();
        assert!(is_journal(Some(&format!("{}:{}", stat.st_dev, stat.st_ino))));
        for other in [None, Some(""), Some("0:0"), Some("x")] {
            assert!(!is_journal(other), "{other:?}");
        }
    }
}
