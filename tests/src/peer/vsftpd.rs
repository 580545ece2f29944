//! vsftpd with a configuration of its own: anonymous clients read `file` and write into `in`.

use crate::net::Netns;
use crate::{run, stale};
use anyhow::{Context, Result};
use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The user anonymous clients are: daemon, whose home is there on every machine.
const DAEMON: u32 = 1;

/// A running vsftpd.
#[derive(Debug)]
pub struct Vsftpd {
    child: Child,
    directory: TempDir,
}

impl Vsftpd {
    /// Starts it in `host` on port 21 of all addresses, IPv4 and IPv6, and waits until it listens.
    pub fn start(host: &Netns, file: &[u8]) -> Result<Self> {
        let directory = stale::directory()?;
        let path = |name: &str| directory.path().join(name);
        ["root", "root/in", "empty"].iter().try_for_each(|name| fs::create_dir(path(name)))?;
        fs::write(path("root/file"), file)?;
        chown(path("root/in"), Some(DAEMON), Some(DAEMON))?;
        // Anonymous clients have to get through to it.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
        let own = directory.path().display();
        fs::write(
            path("vsftpd.conf"),
            format!("anon_root={own}/root\nsecure_chroot_dir={own}/empty\n{SETTINGS}"),
        )?;
        let mut command = host.command("vsftpd");
        command.arg(path("vsftpd.conf")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = run::die_with_us(&mut command).spawn().context("cannot start vsftpd")?;
        let server = Self { child, directory };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 21));
        let connects = || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok();
        run::until(Duration::from_secs(10), "vsftpd listening", || {
            host.enter(connects).is_ok_and(|listens| listens).then_some(())
        })?;
        Ok(server)
    }

    /// Where a client's upload lies.
    pub fn uploaded(&self, name: &str) -> PathBuf {
        self.directory.path().join("root/in").join(name)
    }
}

impl Drop for Vsftpd {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const SETTINGS: &str = "listen=NO
listen_ipv6=YES
background=NO
anonymous_enable=YES
no_anon_password=YES
ftp_username=daemon
local_enable=NO
write_enable=YES
anon_upload_enable=YES
anon_umask=022
connect_from_port_20=YES
isolate_network=NO
isolate=NO
seccomp_sandbox=NO
xferlog_enable=NO
";
