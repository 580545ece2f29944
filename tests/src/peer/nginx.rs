//! nginx with a configuration of its own, in a directory of its own.

use crate::net::Netns;
use crate::{pace, run, stale};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// What all servers of a set-up have in common: a file of 1 MB of random bytes.
#[derive(Debug)]
pub struct Content {
    directory: TempDir,
    big: Vec<u8>,
}

impl Content {
    /// New random bytes.
    pub fn new() -> Result<Self> {
        let mut big = vec![0; 1 << 20];
        File::open("/dev/urandom")?.read_exact(&mut big)?;
        let directory = stale::directory()?;
        fs::write(directory.path().join("big"), &big)?;
        Ok(Self { directory, big })
    }

    /// The bytes a client has to get for `/big` (and for `/slow/big`, at 256 KB a second, `/slowest/big`, at 32).
    pub fn big(&self) -> &[u8] {
        &self.big
    }
}

/// A running nginx that answers its name at `/`.
#[derive(Debug)]
pub struct Nginx {
    child: Child,
    directory: TempDir,
}

impl Nginx {
    /// Starts it in `host` on all addresses, IPv4 and IPv6, and waits until it listens on every port.
    pub fn start(host: &Netns, name: &str, ports: &[u16], content: &Content) -> Result<Self> {
        let directory = stale::directory()?;
        let file = directory.path().join("nginx.conf");
        fs::write(&file, configuration(directory.path(), name, ports, content.directory.path()))?;
        let mut command = host.command("nginx");
        command.arg("-p").arg(directory.path()).arg("-e").arg(directory.path().join("error.log"));
        command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = run::die_with_us(&mut command).spawn().context("cannot start nginx")?;
        let mut server = Self { child, directory };
        ports.iter().try_for_each(|&port| server.wait_for(host, port))?;
        Ok(server)
    }

    fn wait_for(&mut self, host: &Netns, port: u16) -> Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let connects = || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok();
        let listens = run::until(Duration::from_secs(10), "nginx listening", || {
            host.enter(connects).is_ok_and(|listens| listens).then_some(())
        });
        let Err(error) = listens else { return Ok(()) };
        let log = fs::read_to_string(self.directory.path().join("error.log")).unwrap_or_default();
        bail!("{error}; its log: {log}")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One process, so that killing it leaves nothing behind.
fn configuration(own: &Path, name: &str, ports: &[u16], files: &Path) -> String {
    let listen: String =
        ports.iter().map(|port| format!("    listen {port};\n    listen [::]:{port};\n")).collect();
    // As long as anything may take: a connection waits while a program is loaded.
    let idle = pace::seconds(run::LIMIT.as_secs());
    let own = own.display();
    let files = files.display();
    format!(
        "daemon off;
master_process off;
pid {own}/pid;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {own}/body;
  proxy_temp_path {own}/proxy;
  fastcgi_temp_path {own}/fastcgi;
  uwsgi_temp_path {own}/uwsgi;
  scgi_temp_path {own}/scgi;
  server {{
{listen}    keepalive_requests 100000;
    keepalive_timeout {idle};
    send_timeout {idle};
    location = / {{ return 200 \"{name}\\n\"; }}
    location / {{ root {files}; }}
    location /slow/ {{ limit_rate 256k; alias {files}/; }}
    location /slowest/ {{ limit_rate 32k; alias {files}/; }}
  }}
}}
"
    )
}
