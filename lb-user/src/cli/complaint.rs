//! What is wrong with a command line, before the balancer has been asked anything.

use std::fmt;

use super::options::{Command, Slot};
use super::popt::Wrong;

/// A complaint. Its text is what the command prints, [`Self::TryHelp`] apart, which needs the program's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// The line does not begin with a command: a pointer to the help.
    TryHelp,
    /// A word that is no option, or lacks its value.
    Word(Wrong),
    /// A value or a combination that cannot be.
    Bad(String),
}

impl Complaint {
    /// A complaint about a value or a combination.
    pub fn bad<T>(text: impl Into<String>) -> Result<T, Self> {
        Err(Self::Bad(text.into()))
    }

    /// The command's exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::TryHelp | Self::Word(_) => 255,
            Self::Bad(_) => 2,
        }
    }

    /// Does it end a whole restore? A wrong word only ends its line.
    pub fn ends_restore(&self) -> bool {
        !matches!(self, Self::Word(_))
    }

    /// The lines to print, for a program of this name.
    pub fn text(&self, program: &str) -> String {
        match self {
            Self::TryHelp => format!("Try `{program} -h' or '{program} --help' for more information."),
            Self::Word(wrong) => wrong.to_string(),
            Self::Bad(text) => text.clone(),
        }
    }
}

impl From<Wrong> for Complaint {
    fn from(wrong: Wrong) -> Self {
        Self::Word(wrong)
    }
}

/// For whom an option is missing, illegal or in conflict.
#[derive(Clone, Copy, Debug)]
pub enum Context {
    /// A command.
    Command(Command),
    /// A tunnel type, by name.
    Tunnel(&'static str),
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(command) => write!(f, "'{}' command", command.name()),
            Self::Tunnel(kind) => write!(f, "'{kind}' tunnel type"),
        }
    }
}

/// Checks what was given against what is known, slot by slot in the fixed order, so that the first complaint is
/// ipvsadm's.
pub fn check_slots(
    slots: impl Iterator<Item = Slot>,
    given: impl Fn(Slot) -> bool,
    rule: &super::options::Rule,
    context: Context,
) -> Result<(), Complaint> {
    let mut chosen: Option<Slot> = None;
    for slot in slots {
        let name = slot.name();
        if !given(slot) {
            if rule.needs.contains(&slot) {
                return Complaint::bad(format!("You need to supply the '{name}' option for the {context}"));
            }
        } else if rule.one_of.contains(&slot) {
            if let Some(earlier) = chosen {
                let earlier = earlier.name();
                return Complaint::bad(format!(
                    "The option '{name}' conflicts with the '{earlier}' option in the {context}"
                ));
            }
            chosen = Some(slot);
        } else if !rule.needs.contains(&slot) && !rule.takes.contains(&slot) {
            return Complaint::bad(format!("Illegal '{name}' option with the {context}"));
        }
    }
    Ok(())
}
