//! Lines into statements: keyword, words, and the block that belongs to it.
//!
//! A line is cut at every `{` and `}` outside quotes, so several blocks may stand on one line; a `{` belongs to the words
//! before it, on the same line or the one before.

use super::define::braced;
use super::problem::{Place, Problems};
use super::source::Line;

/// Deeper is no configuration.
const DEEPEST: usize = 32;

/// A keyword with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Where it stands.
    pub place: Place,
    /// Keyword and words as they were written, quotes and all.
    pub raw: String,
    /// The words; `"quoted text"` is one. Empty: a block without a name.
    pub words: Vec<String>,
    /// What stands in its braces.
    pub block: Option<Vec<Statement>>,
}

impl Statement {
    /// The keyword.
    pub fn keyword(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }
    /// The word after the keyword, or a later one.
    pub fn word(&self, nth: usize) -> Option<&str> {
        self.words.get(nth).map(String::as_str)
    }
    /// The words after the keyword.
    pub fn rest(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

enum Piece {
    Words(String),
    Open,
    Close,
}

/// The statements of the top level.
pub fn parse(lines: &[Line], problems: &mut Problems) -> Vec<Statement> {
    let mut tree = Tree { problems, stack: vec![Vec::new()], may_open: false };
    for line in lines {
        for piece in pieces(line, tree.problems) {
            tree.take(&line.place, piece);
        }
    }
    tree.end()
}

struct Tree<'p> {
    problems: &'p mut Problems,
    stack: Vec<Vec<Statement>>,
    /// The last statement has just been read, so a `{` is its own.
    may_open: bool,
}

impl Tree<'_> {
    fn take(&mut self, place: &Place, piece: Piece) {
        match piece {
            Piece::Words(raw) => self.add(place, raw),
            Piece::Open => self.open(place),
            Piece::Close => self.close(place),
        }
    }

    fn add(&mut self, place: &Place, raw: String) {
        let words = words(&raw);
        if let Some(level) = self.stack.last_mut() {
            level.push(Statement { place: place.clone(), raw, words, block: None });
        }
        self.may_open = true;
    }

    fn open(&mut self, place: &Place) {
        if self.stack.len() == DEEPEST {
            self.problems.error(place, "blocks are nested too deep");
        }
        if !self.may_open {
            self.add(place, String::new());
        }
        self.may_open = false;
        self.stack.push(Vec::new());
    }

    fn close(&mut self, place: &Place) {
        self.may_open = false;
        if self.stack.len() < 2 {
            self.problems.error(place, "`}` closes nothing");
            return;
        }
        self.shut();
    }

    /// The innermost block becomes its statement's.
    fn shut(&mut self) {
        // What is nested too deep is dropped, lest taking the tree apart needs as much stack.
        let too_deep = self.stack.len() > DEEPEST;
        let block = self.stack.pop();
        let owner = self.stack.last_mut().and_then(|level| level.last_mut());
        if let (Some(owner), Some(block)) = (owner, block) {
            owner.block = Some(if too_deep { Vec::new() } else { block });
        }
    }

    fn end(mut self) -> Vec<Statement> {
        while self.stack.len() > 1 {
            let level = self.stack.get(self.stack.len() - 2);
            if let Some(owner) = level.and_then(|level| level.last()) {
                let what = if owner.raw.is_empty() { "a block" } else { &owner.raw };
                self.problems.error(&owner.place, format!("`{what}`: its `{{` is never closed"));
            }
            self.shut();
        }
        self.stack.pop().unwrap_or_default()
    }
}

/// Cuts a line at its braces.
fn pieces(line: &Line, problems: &mut Problems) -> Vec<Piece> {
    let (mut found, mut words, mut quoted) = (Vec::new(), String::new(), false);
    let mut skip = 0;
    let text = &line.text;
    for (at, c) in text.char_indices() {
        if skip > 0 {
            skip -= 1;
            words.push(c);
            continue;
        }
        match c {
            '"' => {
                quoted = !quoted;
                words.push(c);
            }
            // A name that nobody defined.
            '$' if !quoted => {
                skip = braced(&text[at + 1..]).unwrap_or(0);
                words.push(c);
            }
            '{' | '}' if !quoted => {
                flush(&mut words, &mut found);
                found.push(if c == '{' { Piece::Open } else { Piece::Close });
            }
            _ => words.push(c),
        }
    }
    if quoted {
        problems.error(&line.place, "a `\"` has no partner");
    }
    flush(&mut words, &mut found);
    found
}

fn flush(words: &mut String, found: &mut Vec<Piece>) {
    let text = words.trim();
    if !text.is_empty() {
        found.push(Piece::Words(text.to_owned()));
    }
    words.clear();
}

/// Splits at blanks; a word also begins and ends at a `"`.
pub fn words(raw: &str) -> Vec<String> {
    let (mut words, mut rest) = (Vec::new(), raw.trim_start());
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(inner) => inner.split_once('"').unwrap_or((inner, "")),
            None => rest.split_at(rest.find([' ', '\t', '"']).unwrap_or(rest.len())),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(line: u32) -> Place {
        Place { file: std::path::Path::new("k").into(), line }
    }

    /// In one line: words joined by blanks, blocks in brackets.
    fn shape(statements: &[Statement]) -> String {
        let one = |statement: &Statement| {
            let block = statement.block.as_ref().map(|block| format!("[{}]", shape(block)));
            format!("{}{}", statement.words.join("_"), block.unwrap_or_default())
        };
        statements.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    fn parsed(text: &str) -> (String, Vec<String>) {
        let lines: Vec<Line> = (1..)
            .zip(text.lines())
            .map(|(at, text)| Line { place: place(at), text: text.to_owned() })
            .collect();
        let mut problems = Problems::default();
        let shape = shape(&parse(&lines, &mut problems));
        (shape, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn blocks() {
        for (text, shape) in [
            ("a { b { c 1 } } d", "a[b[c_1]] d"),
            ("a\n{\nb\n}\nc", "a[b] c"),
            ("real 1 { weight 2\nx { }\n}", "real_1[weight_2 x[]]"),
            ("state {{ role }}\nb", "state[[role]] b"),
            ("a \"b {\" c\"d e\"f", "a_b {_c_d e_f"),
            ("a ${UNDEFINED} { b }", "a_${UNDEFINED}[b]"),
        ] {
            assert_eq!(parsed(text), (shape.to_owned(), vec![]), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_said_with_its_line() {
        assert_eq!(parsed("a {\nb {\n}").1, ["k:1: error: `a`: its `{` is never closed"]);
        assert_eq!(parsed("a\n}\nb").1, ["k:2: error: `}` closes nothing"]);
        assert_eq!(parsed("a \"b\nc").1, ["k:1: error: a `\"` has no partner"]);
        let deep = "a {\n".repeat(100_000);
        assert!(!parsed(&deep).1.is_empty());
    }
}
