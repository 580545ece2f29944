//! What a test cannot do without.
//!
//! A test asks with `?` at its start: `need::root()?`. When the answer is no, the error is a [`Missing`]; the harness
//! prints it and counts the test as skipped, or as failed where `CI=true` says that nothing may be skipped.

use std::env;
use std::error::Error;
use std::fmt;
use std::path::PathBuf;

/// The programs the network tests start, each with the Debian package that has it.
pub const PROGRAMS: [(&str, &str); 11] = [
    ("ip", "iproute2"),
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("iperf3", "iperf3"),
    ("ping", "iputils-ping"),
    ("sysctl", "procps"),
    ("ifconfig", "net-tools"),
    ("nsenter", "util-linux"),
    ("vsftpd", "vsftpd"),
    ("keepalived", "keepalived"),
    ("bird", "bird2"),
];

/// Something a test needs and this machine does not have.
#[derive(Debug)]
pub struct Missing(String);

impl Missing {
    /// `what` names the thing and says how to get it.
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "needs {}", self.0)
    }
}

impl Error for Missing {}

/// True where a skip counts as a failure.
pub fn nothing_may_be_skipped() -> bool {
    env::var("CI").is_ok_and(|ci| ci == "true")
}

/// Namespaces, veth pairs and programs for the kernel need root.
pub fn root() -> Result<(), Missing> {
    match nix::unistd::geteuid().is_root() {
        true => Ok(()),
        false => Err(Missing::new("root: run it as root")),
    }
}

/// The named program, somewhere on the path.
pub fn program(name: &str) -> Result<PathBuf, Missing> {
    let found = search_path().map(|dir| dir.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| Missing::new(format!("the program {name}: apt-get install {}", package_of(name))))
}

/// All of the named programs.
pub fn programs(names: &[&str]) -> Result<(), Missing> {
    names.iter().try_for_each(|name| program(name).map(|_| ()))
}

/// Root and the programs every namespace test starts.
pub fn network() -> Result<(), Missing> {
    root()?;
    programs(&["ip", "nginx", "curl"])
}

/// The directories of `$PATH`, then those of system programs, which an ordinary user's path may leave out.
fn search_path() -> impl Iterator<Item = PathBuf> {
    let said: Vec<PathBuf> =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    said.into_iter().chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
}

fn package_of(program: &str) -> &str {
    PROGRAMS.iter().find(|(name, _)| *name == program).map_or(program, |(_, package)| package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let said = |name| program(name).map_err(|missing| missing.to_string());
        assert!(said("sh").is_ok());
        assert_eq!(
            said("no-such-program"),
            Err("needs the program no-such-program: apt-get install no-such-program".into())
        );
        assert_eq!(package_of("nginx"), "nginx-light");
    }
}
