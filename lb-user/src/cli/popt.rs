//! Words into options, as the popt library does it.
//!
//! ipvsadm's users and scripts rely on popt's ways, and clap (which reads lb-user's own verbs) has others: popt takes
//! the next word as a value whatever it looks like (`-s -x`), except for the one optional value, which it takes
//! unless it begins with `-`; an attached value may begin with `=` (`-p=300`); long names are never abbreviated; the
//! values before a wrong word have been judged when the wrong word is met, so the first complaint wins.

use std::collections::VecDeque;
use std::fmt;

use super::options::{Argument, OPTIONS, Opt};

/// One option met.
#[derive(Debug)]
pub struct Met<'a> {
    /// Which.
    pub opt: &'static Opt,
    /// Its value.
    pub value: Option<&'a str>,
    /// The last word read for it, as typed: `-AD` for both `-A` and `-D`, the value if that was a word of its own.
    pub word: &'a str,
}

/// What is wrong with a word, in popt's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    word: String,
    what: &'static str,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.word, self.what)
    }
}

/// A command line on its way through. An iterator over its options; what is no option gathers in [`Self::leftover`].
#[derive(Debug)]
pub struct Words<'a> {
    words: &'a [String],
    next: usize,
    /// What is left of a word of short options.
    cluster: &'a str,
    options_ended: bool,
    leftover: VecDeque<&'a str>,
}

impl<'a> Words<'a> {
    /// Without the program's name.
    pub fn new(words: &'a [String]) -> Self {
        Self { words, next: 0, cluster: "", options_ended: false, leftover: VecDeque::new() }
    }

    /// The next word that was no option.
    pub fn leftover(&mut self) -> Option<&'a str> {
        self.leftover.pop_front()
    }

    fn word(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.next)?;
        self.next += 1;
        Some(word)
    }

    /// The word read last: the one complaints are about.
    fn current(&self) -> &'a str {
        self.next.checked_sub(1).and_then(|at| self.words.get(at)).map_or("", String::as_str)
    }

    fn wrong<T>(&self, what: &'static str) -> Result<T, Wrong> {
        Err(Wrong { word: self.current().to_owned(), what })
    }

    fn long(&mut self, text: &'a str) -> Result<Met<'a>, Wrong> {
        let (name, attached) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        match OPTIONS.iter().find(|opt| opt.long == name) {
            Some(opt) => self.met(opt, attached),
            None => self.wrong("unknown option"),
        }
    }

    fn short(&mut self) -> Result<Met<'a>, Wrong> {
        let mut letters = self.cluster.chars();
        let letter = letters.next();
        self.cluster = letters.as_str();
        let Some(opt) = OPTIONS.iter().find(|opt| opt.short == letter) else {
            self.cluster = "";
            return self.wrong("unknown option");
        };
        if opt.argument == Argument::No {
            return if self.cluster.starts_with('=') { self.unwanted() } else { self.met(opt, None) };
        }
        let rest = std::mem::take(&mut self.cluster);
        self.met(opt, (!rest.is_empty()).then(|| rest.strip_prefix('=').unwrap_or(rest)))
    }

    fn unwanted<T>(&mut self) -> Result<T, Wrong> {
        self.cluster = "";
        self.wrong("option does not take an argument")
    }

    fn met(&mut self, opt: &'static Opt, attached: Option<&'a str>) -> Result<Met<'a>, Wrong> {
        let value = match (opt.argument, attached) {
            (Argument::No, Some(_)) => return self.unwanted(),
            (Argument::No, None) => None,
            (_, Some(value)) => Some(value),
            (Argument::Needs(_), None) => match self.word() {
                Some(value) => Some(value),
                None => return self.wrong("missing argument"),
            },
            (Argument::Takes(_), None) => match self.words.get(self.next) {
                Some(value) if !value.starts_with('-') => self.word(),
                _ => None,
            },
        };
        Ok(Met { opt, value, word: self.current() })
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = Result<Met<'a>, Wrong>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if !self.cluster.is_empty() {
                return Some(self.short());
            }
            let word = self.word()?;
            match word.strip_prefix('-') {
                _ if self.options_ended => self.leftover.push_back(word),
                None | Some("") => self.leftover.push_back(word),
                Some("-") => self.options_ended = true,
                Some(rest) => match rest.strip_prefix('-') {
                    Some(long) => return Some(self.long(long)),
                    None => self.cluster = rest,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(|w| if w == "''" { "" } else { w }.to_owned()).collect();
        let mut words = Words::new(&words);
        let mut seen = Vec::new();
        for met in words.by_ref() {
            match met {
                Ok(met) => seen.push(match met.value {
                    Some(value) => format!("{}={value}", met.opt.long),
                    None => met.opt.long.to_owned(),
                }),
                Err(wrong) => {
                    seen.push(format!("! {wrong}"));
                    return seen;
                }
            }
        }
        while let Some(word) = words.leftover() {
            seen.push(format!("+{word}"));
        }
        seen
    }

    #[test]
    fn as_popt_does() {
        for (line, seen) in [
            ("-Ln", &["list", "numeric"][..]),
            (
                "-At vip:80 -srr -p300",
                &["add-service", "tcp-service=vip:80", "scheduler=rr", "persistent=300"],
            ),
            ("-A -p=300", &["add-service", "persistent=300"]),
            ("-A -p= -p ''", &["add-service", "persistent=", "persistent="]),
            ("-A --persistent=60 --scheduler=", &["add-service", "persistent=60", "scheduler="]),
            ("-A -p -s -x", &["add-service", "persistent", "scheduler=-x"]),
            ("-A -p", &["add-service", "persistent"]),
            ("-L foo -n bar", &["list", "numeric", "+foo", "+bar"]),
            ("-L -- -n", &["list", "+-n"]),
            ("-L - ''", &["list", "+-", "+"]),
            ("-L --foo", &["list", "! --foo: unknown option"]),
            ("-Lz", &["list", "! -Lz: unknown option"]),
            ("-A -t", &["add-service", "! -t: missing argument"]),
            ("-At", &["add-service", "! -At: missing argument"]),
            ("-L --numeric=1", &["list", "! --numeric=1: option does not take an argument"]),
            ("-Ln=3", &["list", "! -Ln=3: option does not take an argument"]),
            ("--add-serv", &["! --add-serv: unknown option"]),
            ("--=x", &["! --=x: unknown option"]),
        ] {
            assert_eq!(read(line), seen, "{line}");
        }
    }
}
