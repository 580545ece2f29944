//! From files to lines that mean something: comments go, includes, definitions, conditions and repetitions are carried
//! out, in keepalived's order. What comes out is text in the order it counts, each line with its place.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::define::{self, Expanded, Surroundings};
use super::include::{self, Strict};
use super::problem::{Place, Problems};
use super::repeat;

/// keepalived's buffer; a longer line is dropped whole.
const LONGEST: usize = 1024;
/// More is a definition or repetition that grows without end.
const MOST_LINES: usize = 1_000_000;
/// Includes in includes, definitions in definitions.
const DEEPEST: usize = 64;
/// A line that definitions made longer grows without end.
const LARGEST_LINE: usize = 1 << 16;
/// A configuration of this size is something else.
const LARGEST: u64 = 64 << 20;

/// A line of meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where it stands, or is referred to.
    pub place: Place,
    /// Not blank.
    pub text: String,
}

/// A definition whose lines are still coming.
struct Pending {
    /// `None`: a condition ruled it out.
    name: Option<String>,
    lines: Vec<String>,
}

/// Reads files.
pub struct Source<'p> {
    id: String,
    problems: &'p mut Problems,
    definitions: HashMap<String, String>,
    pending: Option<Pending>,
    lines: Vec<Line>,
    work: usize,
    /// The files being read, each included by the one before.
    open: Vec<PathBuf>,
}

/// The lines of a configuration. `id` is what `@id` lines are compared with.
pub fn read(path: &Path, id: &str, problems: &mut Problems) -> Vec<Line> {
    let mut source = Source {
        id: id.to_owned(),
        problems,
        definitions: HashMap::new(),
        pending: None,
        lines: Vec::new(),
        work: 0,
        open: Vec::new(),
    };
    let whole = Place { file: path.into(), line: 0 };
    match load(path) {
        Ok(text) => source.file(path, &text, 0),
        Err(error) => source.problems.error(&whole, error),
    }
    source.lines
}

/// The text of a file; what is no UTF-8 can only be in a comment or a wrong word.
fn load(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
    file.take(LARGEST).read_to_end(&mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
    Ok(bytes)
}

impl Source<'_> {
    fn file(&mut self, path: &Path, bytes: &[u8], depth: usize) {
        let file: Arc<Path> = path.into();
        self.open.push(path.canonicalize().unwrap_or_else(|_| path.to_owned()));
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        for (number, bytes) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            let place = Place { file: file.clone(), line: number };
            if bytes.len() >= LONGEST {
                self.problems.error(&place, format!("longer than {LONGEST} characters"));
                continue;
            }
            if bytes.contains(&0) {
                self.problems.error(&place, "has a NUL character");
                continue;
            }
            let text = String::from_utf8_lossy(bytes);
            let text = without_comment(text.trim_end_matches('\r'));
            self.physical(&place, text.trim(), depth);
        }
        self.open.pop();
        if let Some(Pending { name: Some(name), .. }) = self.pending.take() {
            let last = Place { file, line: 0 };
            self.problems.error(&last, format!("ends inside the definition of ${name}"));
        }
    }

    fn physical(&mut self, place: &Place, text: &str, depth: usize) {
        if let Some(mut pending) = self.pending.take() {
            let (line, more) = continued(text);
            pending.lines.push(line.to_owned());
            match (more, pending.name) {
                (true, name) => self.pending = Some(Pending { name, lines: pending.lines }),
                (false, Some(name)) => drop(self.definitions.insert(name, pending.lines.join("\n"))),
                (false, None) => {}
            }
            return;
        }
        match include::asked(text) {
            Some((strict, pattern)) => self.include(place, strict, pattern, depth),
            None => self.line(place, text, &[], 0),
        }
    }

    fn include(&mut self, place: &Place, strict: Strict, pattern: &str, depth: usize) {
        let here = place.file.parent().unwrap_or(Path::new("."));
        let found: Vec<PathBuf> = match include::matches(here, pattern, strict) {
            Ok(found) => found,
            Err(text) => return self.problems.error(place, text),
        };
        for path in found {
            // Named by another name it would be the same file: an include of itself never ends.
            let same = path.canonicalize().is_ok_and(|path| self.open.contains(&path));
            if same || depth >= DEEPEST {
                self.problems.error(place, format!("{} includes itself", path.display()));
                continue;
            }
            match load(&path) {
                Ok(bytes) => self.file(&path, &bytes, depth + 1),
                Err(why) if strict.readable => {
                    self.problems.error(place, format!("{}: {why}", path.display()));
                }
                Err(_) => {}
            }
        }
    }

    /// `outer` holds the variables of repetitions around.
    fn line(&mut self, place: &Place, text: &str, outer: &[(String, String)], depth: usize) {
        let text = text.trim();
        if text.is_empty() || self.is_too_much(place, text.len(), depth) {
            return;
        }
        if let Some((holds, rest)) = condition(text, &self.id) {
            return self.conditional(place, holds, rest, outer, depth);
        }
        if let Some((name, value)) = define::definition(text) {
            return self.define(Some(name), value);
        }
        if let Some(repetition) = repeat::asked(text) {
            return self.repeat(place, &repetition, outer, depth);
        }
        match self.expand(place, text, outer) {
            Expanded::Same => self.lines.push(Line { place: place.clone(), text: text.to_owned() }),
            Expanded::Lines(lines) => {
                lines.iter().for_each(|line| self.line(place, line, outer, depth + 1));
            }
        }
    }

    fn is_too_much(&mut self, place: &Place, length: usize, depth: usize) -> bool {
        self.work += 1;
        if depth > DEEPEST || length > LARGEST_LINE {
            self.problems.error(place, "a definition refers to itself");
        }
        if self.work == MOST_LINES {
            self.problems.error(place, format!("makes more than {MOST_LINES} lines; the rest is dropped"));
        }
        depth > DEEPEST || length > LARGEST_LINE || self.work >= MOST_LINES
    }

    fn conditional(
        &mut self,
        place: &Place,
        holds: bool,
        rest: &str,
        outer: &[(String, String)],
        depth: usize,
    ) {
        match define::definition(rest.trim()) {
            _ if holds => self.line(place, rest, outer, depth),
            // Its further lines go with it.
            Some((_, value)) => self.define(None, value),
            None => {}
        }
    }

    fn define(&mut self, name: Option<&str>, value: &str) {
        let (first, more) = continued(value);
        let name = name.map(str::to_owned);
        if more {
            let lines = if first.is_empty() { Vec::new() } else { vec![first.to_owned()] };
            self.pending = Some(Pending { name, lines });
        } else if let Some(name) = name {
            self.definitions.insert(name, value.to_owned());
        }
    }

    fn repeat(&mut self, place: &Place, text: &str, outer: &[(String, String)], depth: usize) {
        // The bounds may be definitions themselves.
        let (head, rest) = repeat::split(text);
        let head = match self.expand(place, head, outer) {
            Expanded::Lines(lines) => lines.join(" "),
            Expanded::Same => head.to_owned(),
        };
        let rounds = match repeat::rounds(&head) {
            Ok(rounds) => rounds,
            Err(why) => return self.problems.error(place, why),
        };
        for round in rounds {
            if self.work >= MOST_LINES {
                return;
            }
            let mut inner = outer.to_vec();
            inner.extend(round);
            self.line(place, rest, &inner, depth + 1);
        }
    }

    fn expand(&self, place: &Place, text: &str, outer: &[(String, String)]) -> Expanded {
        let surroundings = Surroundings { file: &place.file, id: &self.id };
        define::expand(text, |name| {
            let inner = outer.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone());
            inner
                .or_else(|| self.definitions.get(name).cloned())
                .or_else(|| define::predefined(name, &surroundings))
        })
    }
}

/// Cuts a comment off; `\#` and `\!` outside quotes are the characters themselves.
fn without_comment(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if !quoted => match chars.next_if(|next| matches!(next, '#' | '!')) {
                Some(literal) => text.push(literal),
                None => text.push(c),
            },
            '#' | '!' if !quoted => break,
            _ => {
                quoted ^= c == '"';
                text.push(c);
            }
        }
    }
    text
}

/// A line without its `\`, and whether it had one.
fn continued(text: &str) -> (&str, bool) {
    match text.strip_suffix('\\') {
        Some(text) => (text.trim(), true),
        None => (text, false),
    }
}

/// `@id rest` and `@^id rest`: does it hold, and the rest.
fn condition<'t>(text: &'t str, id: &str) -> Option<(bool, &'t str)> {
    let text = text.strip_prefix('@')?;
    let (not, text) = match text.strip_prefix('^') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (wanted, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    Some(((wanted == id) != not, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a text, and the problems.
    fn lines(text: &str) -> (Vec<String>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("k.conf");
        std::fs::write(&file, text).unwrap();
        let mut problems = Problems::default();
        let lines = read(&file, "host1", &mut problems).into_iter().map(|line| line.text).collect();
        let problems =
            problems.iter().map(|problem| format!("{} {}", problem.place.line, problem.text)).collect();
        (lines, problems)
    }

    fn meant(text: &str) -> Vec<String> {
        let (lines, problems) = lines(text);
        assert!(problems.is_empty(), "{problems:?}");
        lines
    }

    #[test]
    fn comments() {
        let text = "a b # c\n! d\ne \"#!\" f ! g\n  \n h \\# i\\!\r\n";
        assert_eq!(meant(text), ["a b", "e \"#!\" f", "h # i!"]);
    }

    #[test]
    fn definitions_are_expanded_late() {
        let text = "$A=1 ${B}\n$B=2\nx $A\n$B=3\nx ${A}y $A,$A) $Ab\n$E=\nz $E\n";
        assert_eq!(meant(text), ["x 1 2", "x 1 3y 1 3,1 3) $Ab", "z"]);
    }

    #[test]
    fn a_definition_of_several_lines_ends_the_line_it_is_used_in() {
        let text = "$M= \\\n a { \\\n b $N \\\n }\n$N=7\nx $M\n$N=8\n$M\n$M y\n";
        assert_eq!(meant(text), ["x a {", "b 7", "}", "a {", "b 8", "}", "$M y"]);
        assert_eq!(lines("$M= \\\n a \\\n").1, ["0 ends inside the definition of $M"]);
    }

    #[test]
    fn a_definition_of_itself_is_said() {
        let (got, problems) = lines("$A=x $A\n$A\nb\n");
        assert_eq!(
            (got, problems),
            (vec!["b".to_owned()], vec!["2 a definition refers to itself".to_owned()])
        );
    }

    #[test]
    fn conditions() {
        let text = "@host1 a\n@host2 b\n@^host1 c\n@^host2 d\n@host2 $X= \\\n y \\\n z\n@host1 $X=1\n$X\n";
        assert_eq!(meant(text), ["a", "d", "1"]);
    }

    #[test]
    fn repetitions() {
        assert_eq!(meant("~SEQ(I, 1, 2, 5) a$I,\n"), ["a1,", "a3,", "a5,"]);
        assert_eq!(meant("~SEQ(I, 3) ${I}x\n"), ["1x", "2x", "3x"]);
        assert_eq!(meant("~SEQ(I, 2, 0) $I\n"), ["2", "1", "0"]);
        assert_eq!(meant("~SEQx(I, 8, b) ${I}\n"), ["8", "9", "a", "b"]);
        assert_eq!(meant("~LST(I, a, b c) x $I\n"), ["x a", "x b c"]);
        assert_eq!(meant("~LST({I,J}, {a,1}, {b,2}) $I $J\n"), ["a 1", "b 2"]);
        assert_eq!(meant("~SEQ(I,2) ~LST(J,a,b) $I$J\n$TOP=2\n~SEQ(I,$TOP) $I\n").len(), 6);
        let text = "$RS= \\\n r ${N} { \\\n }\n~SEQ(N, 1, 2) $RS\n";
        assert_eq!(meant(text), ["r 1 {", "}", "r 2 {", "}"]);
        assert_eq!(lines("~SEQ(I, 1, 0, 5) a\n").1.len(), 1);
        assert_eq!(lines("~SEQ(I, 99999999) a\n").0.len(), MOST_LINES - 2);
    }

    #[test]
    fn predefined() {
        let (got, _) = lines("${_PWD}/x ${_INSTANCE} ${_HASH}${_BANG} ${_RANDOM 7 7} ${_ENV NO_SUCH}.\n");
        assert!(got[0].ends_with("/x host1 #! 7 ."), "{got:?}");
    }

    #[test]
    fn lines_that_are_none() {
        let long = format!("a {}\nb\nc\0\n", "x".repeat(2000));
        let (got, problems) = lines(&long);
        assert_eq!((got, problems.len()), (vec!["b".to_owned()], 2));
    }

    #[test]
    fn includes() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        write("k.conf", "a\ninclude d/*.conf\ninclude none/*\ninclude d/{1,2}.txt\nincludea gone\nz\n");
        write("d/1.conf", "one\ninclude more.inc\n");
        write("d/2.conf", "two\n");
        write("d/more.inc", "three\n");
        write("d/1.txt", "four\n");
        let mut problems = Problems::default();
        let lines = read(&dir.path().join("k.conf"), "h", &mut problems);
        let shown: Vec<String> = lines
            .iter()
            .map(|line| {
                let name = line.place.file.file_name().unwrap().to_string_lossy().into_owned();
                format!("{name}:{} {}", line.place.line, line.text)
            })
            .collect();
        assert_eq!(
            shown,
            ["k.conf:1 a", "1.conf:1 one", "more.inc:1 three", "2.conf:1 two", "1.txt:1 four", "k.conf:6 z"]
        );
        let said: Vec<u32> = problems.iter().map(|problem| problem.place.line).collect();
        assert_eq!(said, [5]);
        write("k.conf", "include k.conf\nb\n");
        let mut problems = Problems::default();
        read(&dir.path().join("k.conf"), "h", &mut problems);
        assert_eq!(problems.iter().count(), 1);
    }
}
