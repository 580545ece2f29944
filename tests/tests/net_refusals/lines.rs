//! The golden file of wrong command lines, by the program's own entries and over the pinned maps.

use super::desk::Desk;
use anyhow::{Context, Result, bail, ensure};
use lb_tests::need;
use std::process::Command;

const GOLDEN: &str = include_str!("../../../lb-user/tests/golden/refusals.txt");

/// How ipvsadm can be called: the name, a word before the others, the name in messages.
const ENTRIES: [(&str, Option<&str>, &str); 3] = [
    ("ipvsadm", None, "ipvsadm"),
    ("lb-user", Some("ipvsadm"), "lb-user ipvsadm"),
    ("lb-user", None, "lb-user"),
];

#[derive(Debug, Default)]
struct Case {
    at: usize,
    words: Vec<String>,
    stderr: String,
    status: i32,
}

pub fn wrong_command_lines() -> Result<()> {
    need::network()?;
    let (setup, cases) = golden()?;
    ensure!(cases.len() > 150, "the golden file has lost its cases: {}", cases.len());
    let desk = Desk::new()?;
    let marks = set_up(&desk, &setup)?;
    let before = desk.rules()?;
    for entry in ENTRIES {
        for case in &cases {
            check(&desk, entry, case, marks).with_context(|| format!("refusals.txt:{}", case.at))?;
        }
        ensure!(desk.rules()? == before, "{}: the table has changed", entry.2);
    }
    Ok(())
}

/// Runs the set-up lines; are services by mark among what the balancer can do?
fn set_up(desk: &Desk, lines: &[&str]) -> Result<bool> {
    let mut marks = true;
    for line in lines {
        let said = desk.types(line)?;
        if said.stderr.contains("not supported yet") {
            marks = false;
            desk.quiet(&by_address(line))?;
        } else {
            said.ok()?;
        }
    }
    Ok(marks)
}

/// Another IPv6 service in the place of the one by mark.
fn by_address(line: &str) -> String {
    line.replace("-f 2 -6", "-t [2001:db8::2]:80")
}

fn check(
    desk: &Desk,
    (name, first, program): (&str, Option<&str>, &str),
    case: &Case,
    marks: bool,
) -> Result<()> {
    // For lb-user, a first word that is no option is one of its verbs.
    let verb = case.words.first().is_some_and(|word| !word.starts_with('-'));
    if program == "lb-user" && verb {
        return Ok(());
    }
    let mut command: Command = desk.tool(name);
    command.args(first);
    let line = case.words.join(" ");
    if marks || !line.contains("-f 2 -6") {
        command.args(&case.words);
    } else {
        command.args(by_address(&line).split(' '));
    }
    let said = desk.run(&mut command, b"")?;
    let expected = case
        .stderr
        .replace("`ipvsadm ", &format!("`{program} "))
        .replace("'ipvsadm ", &format!("'{program} "));
    let same = said.stderr == expected && said.status == case.status && said.stdout.is_empty();
    ensure!(same, "{program} {line}: expected status {} and\n{expected}but: {said:?}", case.status);
    Ok(())
}

/// The set-up lines and the cases; the file's first comment tells its format.
fn golden() -> Result<(Vec<&'static str>, Vec<Case>)> {
    let (mut setup, mut cases) = (Vec::new(), Vec::<Case>::new());
    for (at, line) in GOLDEN.lines().enumerate().map(|(at, line)| (at + 1, line)) {
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        match (mark, cases.last_mut()) {
            ("setup:", _) => setup.push(rest),
            ("$", _) => cases.push(Case { at, words: words(rest), ..Case::default() }),
            ("!", Some(case)) => case.stderr += &format!("{rest}\n"),
            ("=", Some(case)) => case.status = rest.parse()?,
            ("" | "#" | "##", _) => {}
            _ => bail!("refusals.txt:{at}: not understood: {line}"),
        }
    }
    Ok((setup, cases))
}

/// The words after the program's name; `''` is an empty one.
fn words(line: &str) -> Vec<String> {
    let all = line.split(' ').filter(|word| !word.is_empty());
    all.skip(1).map(|word| if word == "''" { String::new() } else { word.to_owned() }).collect()
}
