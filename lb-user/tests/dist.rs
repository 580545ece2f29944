//! The files we ship beside the program, read by those they are for.

#![allow(clippy::unwrap_used, reason = "a failing test should say so where it happens")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb_user::agent::config;

fn dist() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist")
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    files.sort();
    files
}

/// As our own agent reads them, on either balancer.
#[test]
fn examples_have_nothing_to_complain_about() {
    let mut read = 0;
    for file in files(&dist().join("examples"), "conf") {
        let text = fs::read_to_string(&file).unwrap();
        if !text.contains("virtual_server") {
            continue;
        }
        for id in ["lb1", "lb2"] {
            let loaded = config::load(&file, id);
            assert_eq!(loaded.problems.status(), 0, "{}", file.display());
            assert!(!loaded.config.servers.is_empty(), "{}", file.display());
        }
        read += 1;
    }
    assert!(read >= 3, "{read} examples");
}

/// `systemd-analyze verify`, with a program that is there in the place of ours. It tells of what it does not know and
/// still succeeds, so a word about the unit is a failure.
#[test]
fn units_are_units() {
    let folder = tempfile::tempdir().unwrap();
    let units = files(&dist(), "service");
    assert!(!units.is_empty());
    for unit in units {
        let name = unit.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&unit).unwrap();
        assert!(text.contains("/usr/local/sbin/lb-user "), "{name} starts something else");
        let copy = folder.path().join(&name);
        fs::write(&copy, text.replace("/usr/local/sbin/lb-user ", "/bin/true ")).unwrap();
        let Ok(said) = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy).output()
        else {
            eprintln!("skipped: needs the program systemd-analyze: apt-get install systemd");
            return;
        };
        let words = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success() && !words.contains(&name), "{words}");
    }
}

/// `promtool check rules`.
#[test]
fn alert_rules_are_rules() {
    let rules = files(&dist().join("prometheus"), "yml");
    assert!(!rules.is_empty());
    let Ok(said) = Command::new("promtool").args(["check", "rules"]).args(&rules).output() else {
        eprintln!("skipped: needs the program promtool: apt-get install prometheus");
        return;
    };
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}
