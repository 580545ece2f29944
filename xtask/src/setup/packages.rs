//! Programs and files from the distribution: what, from which package, and what for.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::command;

/// One thing that is needed.
#[derive(Clone, Copy)]
pub struct Need {
    /// A program on the path, or a file if it starts with a slash.
    probe: &'static str,
    /// The Debian package that has it.
    package: &'static str,
    /// What it is for, said when it is missing.
    reason: &'static str,
    /// A service the package would start at boot, which we do not want.
    service: Option<&'static str>,
}

/// What the tests and the demo use. `ipvsadm` is not here on purpose: it would shadow ours, only a virtual machine gets it.
pub const TESTS: &[Need] = &[
    need("ip", "iproute2", "network namespaces, veth pairs, routes"),
    need("nsenter", "util-linux", "commands inside a network namespace"),
    need("sysctl", "procps", "the ARP settings of the labs"),
    need("ifconfig", "net-tools", "the labs' own commands, word for word"),
    need("ping", "iputils-ping", "ICMP through and around the balancer"),
    Need { service: Some("nginx"), ..need("nginx", "nginx-light", "the real servers") },
    need("curl", "curl", "the clients"),
    Need { service: Some("vsftpd"), ..need("vsftpd", "vsftpd", "the FTP server behind the balancer") },
    need("iperf3", "iperf3", "bulk TCP and UDP traffic"),
    need("socat", "socat", "UDP and SCTP servers"),
    need("tcpdump", "tcpdump", "what was on the wire when a test fails"),
    need("qemu-system-x86_64", "qemu-system-x86", "the virtual machine with Debian's kernel and IPVS"),
    need("strip", "binutils", "programs small enough for the virtual machine's memory"),
    Need {
        service: Some("keepalived"),
        ..need("keepalived", "keepalived", "its own reading of keepalived.conf, to compare, and VRRP")
    },
    Need {
        service: Some("bird"),
        ..need("bird", "bird2", "the routers of the tests with several balancers")
    },
    need("systemd-analyze", "systemd", "its own reading of the unit"),
    Need {
        service: Some("prometheus"),
        ..need("promtool", "prometheus", "its own reading of the alert rules")
    },
];

/// What a benchmark uses beside.
pub const BENCH: &[Need] = &[need("wrk", "wrk", "HTTP clients that time their pages")];

/// Debian's Rust 1.96 with the source of `core`: the BPF toolchain where rustup has none.
pub const TOOLCHAIN: &[Need] = &[
    need("/usr/bin/rustc", "rustc-web", "a compiler whose LLVM fits the BPF linker"),
    need("/usr/bin/cargo", "cargo-web", "the cargo of that compiler"),
    need("/usr/bin/cargo-clippy", "rust-web-clippy", "lints of the kernel program"),
    need(
        "/usr/lib/rustlib/src/rust/library/core/Cargo.toml",
        "rust-web-src",
        "`core`, which is compiled for BPF with the program",
    ),
];

/// The LLVM of that compiler, to build bpf-linker with.
pub const LLVM: &[Need] = &[
    need("/usr/lib/llvm-22/bin/llvm-config", "llvm-22-dev", "LLVM for bpf-linker"),
    need("g++", "g++", "the C++ library LLVM links with"),
    need("/usr/include/zstd.h", "libzstd-dev", "a library LLVM links with"),
    need("/usr/include/zlib.h", "zlib1g-dev", "a library LLVM links with"),
];

const fn need(probe: &'static str, package: &'static str, reason: &'static str) -> Need {
    Need { probe, package, reason, service: None }
}

impl Need {
    fn missing(&self) -> bool {
        match self.probe.starts_with('/') {
            true => !Path::new(self.probe).exists(),
            false => command::find(self.probe).is_none(),
        }
    }
}

/// True where Debian's packages can be had.
pub fn apt() -> bool {
    command::find("apt-get").is_some()
}

/// Install what is missing, or say exactly what it is and how to get it.
pub fn provide(needs: &[Need]) -> Result<()> {
    let missing: Vec<Need> = needs.iter().copied().filter(Need::missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !apt() {
        bail!("missing, and no apt-get here to install it:\n{}", list(&missing));
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "missing:\n{}run this once, then try again: sudo apt-get install {}",
            list(&missing),
            names(&missing)
        );
    }
    install(&missing)?;
    let still: Vec<Need> = missing.into_iter().filter(Need::missing).collect();
    if !still.is_empty() {
        bail!("still missing after installing:\n{}", list(&still));
    }
    Ok(())
}

fn install(needs: &[Need]) -> Result<()> {
    eprintln!("installing:\n{}", list(needs));
    let _quiet = NoServices::begin()?;
    // A bare machine has no package lists yet, and an old list names versions that are gone.
    command::run(apt_get().arg("update"))?;
    command::run(
        apt_get()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(needs.iter().map(|need| need.package)),
    )
    .with_context(|| {
        format!(
            "these come from Debian 12 or newer; on another system provide them yourself:\n{}",
            list(needs)
        )
    })?;
    needs.iter().filter_map(|need| need.service).try_for_each(not_at_boot)
}

fn apt_get() -> Command {
    let mut apt = Command::new("apt-get");
    apt.args(["--quiet", "--quiet", "--option", "Dpkg::Use-Pty=0"]).env("DEBIAN_FRONTEND", "noninteractive");
    // A line for every file unpacked is of no use to anyone; errors come on stderr.
    apt.stdout(Stdio::null());
    apt
}

/// Nor after the next boot. Needs no running systemd; without systemctl nothing starts services anyway.
fn not_at_boot(service: &str) -> Result<()> {
    match command::find("systemctl") {
        Some(systemctl) => command::run(Command::new(systemctl).args(["--quiet", "disable", service])),
        None => Ok(()),
    }
}

/// While this lives, packages that are installed do not start their services: nginx would take port 80 of the machine.
struct NoServices {
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn begin() -> Result<Self> {
        let created = OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
        match created {
            Ok(mut file) => {
                let guard = Self { ours: true };
                file.write_all(b"#!/bin/sh\nexit 101\n").with_context(|| format!("writing {POLICY}"))?;
                Ok(guard)
            }
            // The machine has a policy already: it is not ours to change.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Self { ours: false }),
            Err(error) => Err(error).with_context(|| format!("creating {POLICY}")),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("warning: {POLICY} stays behind and keeps services from starting: {error}");
        }
    }
}

fn list(needs: &[Need]) -> String {
    needs
        .iter()
        .map(|need| format!("  {} (package {}): {}\n", need.probe, need.package, need.reason))
        .collect()
}

fn names(needs: &[Need]) -> String {
    needs.iter().map(|need| need.package).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABSENT: Need = need("no-such-program", "no-such-package", "nothing");

    #[test]
    fn probes_are_programs_or_files() {
        assert!(ABSENT.missing());
        assert!(need("/no/such/file", "", "").missing());
        assert!(!need("sh", "", "").missing());
        assert!(!need("/bin/sh", "", "").missing());
    }

    #[test]
    fn what_is_missing_is_named_with_its_package_and_reason() {
        assert_eq!(list(&[ABSENT]), "  no-such-program (package no-such-package): nothing\n");
    }
}
