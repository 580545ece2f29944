//! The host's part: the virtual machine is started, and each case's two transcripts are compared.

use super::case::Case;
use super::play::write_cases;
use crate::lab;
use crate::vm::{Vm, stripped};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

/// What became of a case with each balancer.
#[derive(Debug, Default)]
pub struct Transcripts {
    kernel: BTreeMap<String, String>,
    ours: BTreeMap<String, String>,
}

/// Boots, and plays the cases.
pub fn run(cases: &[&Case], guest: &Path) -> Result<Transcripts> {
    let vm = Vm::new()?;
    let (guest, program) = (stripped(guest)?, stripped(&lab::program()?)?);
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), write_cases(cases))?;
    let script = "\
for name in ipvsadm ipvsadm-save ipvsadm-restore; do ln -s lb-user /ours/$name; done
exec lb-guest oracle /cases /out";
    let files = [("usr/bin/lb-guest", &*guest), ("ours/lb-user", &*program), ("cases", file.path())];
    let limit = Duration::from_secs(300 + 4 * cases.len() as u64);
    let mut outcome = vm.run(script, &files, limit)?;
    let mut transcript = |name: &str| {
        let text = outcome.files.remove(name).unwrap_or_default();
        by_case(&String::from_utf8_lossy(&text))
    };
    let found = Transcripts { kernel: transcript("kernel"), ours: transcript("ours") };
    let reasons = outcome.files.remove("ours.status").unwrap_or_default();
    match outcome.status {
        0 => {
            eprintln!("oracle: {}\n{}", outcome.stdout.trim_end(), String::from_utf8_lossy(&reasons));
            Ok(found)
        }
        // What was finished can be judged all the same.
        _ if !found.ours.is_empty() => {
            eprintln!("the oracle did not reach its end:\n{}{}", outcome.stdout, outcome.stderr);
            Ok(found)
        }
        status => bail!("the oracle ended with status {status}:\n{}{}", outcome.stdout, outcome.stderr),
    }
}

/// Sections with the same name belong together.
fn by_case(text: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        match line.strip_prefix("== ") {
            Some(case) => name = case.to_owned(),
            None => {
                let section = found.entry(name.clone()).or_default();
                section.push_str(line);
                section.push('\n');
            }
        }
    }
    found
}

impl Transcripts {
    /// Nothing if both balancers did the same, else the first difference, in readable form.
    pub fn judge(&self, case: &Case) -> Result<()> {
        let of = |side: &BTreeMap<String, String>, who: &str| {
            side.get(&case.name).cloned().with_context(|| format!("{who} did not get to this case"))
        };
        let (kernel, ours) = (of(&self.kernel, "kernel IPVS")?, of(&self.ours, "our balancer")?);
        match difference(&kernel, &ours) {
            None => Ok(()),
            Some(difference) => bail!("{difference}\nThe case:\n{}", case.text()),
        }
    }
}

/// The steps up to the first one with a difference; that one on both sides; how many more there are.
fn difference(kernel: &str, ours: &str) -> Option<String> {
    let (kernel, ours) = (steps(kernel), steps(ours));
    let differs = |nth: &usize| kernel.get(*nth) != ours.get(*nth);
    let all: Vec<usize> = (0..kernel.len().max(ours.len())).filter(differs).collect();
    let first = *all.first()?;
    let mut text = String::new();
    let name = |step: Option<&Vec<String>>| step.and_then(|step| step.first()).cloned().unwrap_or_default();
    let before = kernel.iter().take(first).map(|step| name(Some(step))).collect::<Vec<_>>();
    _ = writeln!(text, "after {} steps that agree, at: {}", before.len(), name(kernel.get(first)));
    for (who, step) in [("kernel IPVS", kernel.get(first)), ("ours", ours.get(first))] {
        let rest = step.map(|step| step[1..].join("\n")).unwrap_or_default();
        _ = writeln!(text, "{who}:\n{rest}");
    }
    _ = write!(text, "({} of {} steps differ:", all.len(), kernel.len());
    for nth in all.iter().skip(1).take(4) {
        _ = write!(text, " `{}`", name(kernel.get(*nth)));
    }
    Some(text + ")")
}

/// A step and what came of it: indented lines belong to the one above.
fn steps(text: &str) -> Vec<Vec<String>> {
    let mut steps: Vec<Vec<String>> = Vec::new();
    for line in text.lines() {
        match (line.starts_with("  "), steps.last_mut()) {
            (true, Some(step)) => step.push(line.to_owned()),
            _ => steps.push(vec![line.to_owned()]),
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_shown_with_its_step() {
        let text = difference("! a\n  out 1\n> b\n  x\n", "! a\n  out 1\n> b\n  y\n").expect("they differ");
        assert!(text.contains("at: > b\nkernel IPVS:\n  x\nours:\n  y\n"), "{text}");
        assert_eq!(difference("! a\n", "! a\n"), None);
        assert!(difference("! a\n> b\n", "! a\n").is_some());
    }

    #[test]
    fn sections_of_a_case_are_joined() {
        let found = by_case("== a\n1\n== b\n2\n== a\n3\n");
        assert_eq!(found["a"], "1\n3\n");
    }
}
