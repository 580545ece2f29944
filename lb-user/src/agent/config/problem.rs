//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<Path>,
    /// The line, from 1; 0 means the file as a whole.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.file.display()),
            line => write!(f, "{}:{line}", self.file.display()),
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing: left to keepalived, without effect here.
    Note,
    /// A script that others could change. It is not run.
    Security,
    /// The line is passed over or a default taken, as keepalived does.
    Warning,
    /// The configuration cannot be used.
    Error,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Security => "security",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// How bad.
    pub severity: Severity,
    /// What, and what is done about it.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.severity.word(), self.text)
    }
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Adds one.
    pub fn add(&mut self, place: &Place, severity: Severity, text: impl Into<String>) {
        self.0.push(Problem { place: place.clone(), severity, text: text.into() });
    }
    /// Something that makes the configuration unusable.
    pub fn error(&mut self, place: &Place, text: impl Into<String>) {
        self.add(place, Severity::Error, text);
    }
    /// Something that is passed over.
    pub fn warn(&mut self, place: &Place, text: impl Into<String>) {
        self.add(place, Severity::Warning, text);
    }
    /// Something worth knowing.
    pub fn note(&mut self, place: &Place, text: impl Into<String>) {
        self.add(place, Severity::Note, text);
    }
    /// By file and line.
    pub fn sort(&mut self) {
        self.0.sort_by(|a, b| a.place.cmp(&b.place));
    }
    /// In their order.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
    /// The worst.
    pub fn worst(&self) -> Option<Severity> {
        self.0.iter().map(|problem| problem.severity).max()
    }
    /// The exit status of `keepalived -t`: 5 for anything wrong, 6 if only scripts are unsafe, else 0.
    pub fn status(&self) -> u8 {
        match self.worst() {
            Some(Severity::Error | Severity::Warning) => 5,
            Some(Severity::Security) => 6,
            Some(Severity::Note) | None => 0,
        }
    }
}
