//! The balancer's prompt, where `ipvsadm`, `ipvsadm-save`, `ipvsadm-restore` and `lb-user` are the program under test.

use crate::need::Missing;
use crate::net::Netns;
use crate::run::{self, LIMIT, Said};
use crate::shell::Shell;
use crate::stale;
use anyhow::{Context, Result, bail};
use std::env;
use std::ops::Deref;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The names the program goes by.
const NAMES: [&str; 4] = ["lb-user", "ipvsadm", "ipvsadm-save", "ipvsadm-restore"];

/// A prompt with the program under test. Dropping it detaches and purges.
#[derive(Debug)]
pub struct Lab {
    shell: Shell,
    programs: TempDir,
}

impl Lab {
    /// At the balancer.
    pub fn at(balancer: &Netns) -> Result<Self> {
        let program = program()?;
        let programs = stale::directory()?;
        for name in NAMES {
            symlink(&program, programs.path().join(name))?;
        }
        Ok(Self { shell: Shell::with_programs(balancer, Some(programs.path()))?, programs })
    }

    /// The directory with the program under its four names.
    pub fn programs(&self) -> &Path {
        self.programs.path()
    }

    /// Types lines that have to succeed in silence, then compares `ipvsadm -Ln` with `listing` to the byte.
    pub fn lists(&self, listing: &str) -> Result<()> {
        self.shows("ipvsadm -Ln", listing)
    }

    /// Compares what a line prints with `expected`, to the byte. The table may need a moment: the last packets of a
    /// connection arrive after the client's program has ended.
    pub fn shows(&self, line: &str, expected: &str) -> Result<()> {
        let mut last = String::new();
        let shown = run::until(Duration::from_secs(3), line, || {
            last = self.ok(line).unwrap_or_else(|error| format!("{error:#}"));
            (last == expected).then_some(())
        });
        match shown {
            Ok(()) => Ok(()),
            Err(_) => bail!("`{line}` should show\n{expected}but shows\n{last}"),
        }
    }

    /// Types a line that has to fail with this status and these words on standard error.
    pub fn refuses(&self, line: &str, status: i32, words: &str) -> Result<()> {
        let said = self.types(line)?;
        match said.status == status && said.stderr == words {
            true => Ok(()),
            false => bail!("`{line}` should end with status {status} and `{words}`, but: {said:?}"),
        }
    }

    /// Types lines without a prompt's own copy of anything: through `nsenter`, as scripts do.
    pub fn through_nsenter(&self, balancer: &Netns, words: &[&str]) -> Result<Said> {
        let (name, arguments) = words.split_first().context("a command has at least one word")?;
        let mut net = std::ffi::OsString::from("--net=");
        net.push(balancer.path());
        let mut command = std::process::Command::new("nsenter");
        command.arg(net).arg(self.programs.path().join(name)).args(arguments);
        run::run_with(&mut command, b"", LIMIT)
    }
}

impl Deref for Lab {
    type Target = Shell;

    fn deref(&self) -> &Shell {
        &self.shell
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let line = "lb-user detach --purge";
        if let Err(error) = self.types(line).and_then(Said::ok) {
            eprintln!("on the way out, `{line}`: {error:#}");
        }
    }
}

/// `$LB_USER_BIN`, or the program built beside this test.
pub fn program() -> Result<PathBuf> {
    let named = env::var_os("LB_USER_BIN").map(PathBuf::from);
    let found = named.or_else(|| beside_this_test().filter(|file| file.is_file()));
    match found {
        Some(file) if file.is_file() => Ok(std::path::absolute(file)?),
        Some(file) => {
            Err(Missing::new(format!("the program under test: LB_USER_BIN={} is no file", file.display()))
                .into())
        }
        None => {
            Err(Missing::new("the program under test: cargo build -p lb-user, or set LB_USER_BIN").into())
        }
    }
}

/// Says where [`examples`] are, if not in the workspace.
pub const EXAMPLES: &str = "LB_TESTS_EXAMPLES";

/// The configurations that come with the product, `dist/examples`, in order of their names.
pub fn examples() -> Result<Vec<PathBuf>> {
    let workspace = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/examples");
    let directory = env::var_os(EXAMPLES).map_or_else(workspace, PathBuf::from);
    let entries = std::fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// Tests are in `target/PROFILE/deps`, programs in `target/PROFILE`.
fn beside_this_test() -> Option<PathBuf> {
    let test = env::current_exe().ok()?;
    let profile = test.ancestors().find(|directory| !directory.ends_with("deps") && directory.is_dir())?;
    Some(profile.join("lb-user"))
}
