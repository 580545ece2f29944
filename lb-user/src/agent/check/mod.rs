//! Health checks.
//!
//! | module | owns |
//! |---|---|
//! | [`machine`] | results to states: retries, first verdicts |
//! | [`tally`] | how attempts went, for the metrics |
//! | [`watch`] | one task for each different check, however many servers it stands for |
//! | [`net`] | sockets as a check wants them, and which errors are the server's |
//! | [`path`] | sockets whose packets take the way of clients' packets |
//! | [`tcp`], [`http`], [`tls`], [`ping`], [`udp`], [`dns`], [`smtp`], [`misc`], [`file`] | one kind each |

pub mod dns;
pub mod file;
pub mod http;
pub mod machine;
pub mod misc;
pub mod net;
pub mod path;
pub mod ping;
pub mod smtp;
pub mod tally;
pub mod tcp;
pub mod tls;
pub mod udp;
pub mod watch;

use machine::Outcome;
use path::Paths;

use super::config::model::Probe;

/// A check ready to be made, again and again.
pub enum Prober {
    /// `TCP_CHECK`
    Tcp(tcp::Prober),
    /// `HTTP_GET`, `SSL_GET`
    Http(http::Prober),
    /// `SMTP_CHECK`
    Smtp(smtp::Prober),
    /// `DNS_CHECK`
    Dns(dns::Prober),
    /// `UDP_CHECK`
    Udp(udp::Prober),
    /// `PING_CHECK`
    Ping(ping::Prober),
    /// `FILE_CHECK`
    File(file::Prober),
    /// `MISC_CHECK`
    Misc(misc::Prober),
}

impl Prober {
    /// Of this kind. `paths`: for what takes the way of clients' packets.
    pub fn new(probe: &Probe, paths: &Paths) -> Self {
        let paths = paths.clone();
        match probe.clone() {
            Probe::Tcp(target) => Self::Tcp(tcp::Prober::new(target, paths)),
            Probe::Http(http) => Self::Http(http::Prober::new(http, paths)),
            Probe::Smtp(smtp) => Self::Smtp(smtp::Prober::new(smtp, paths)),
            Probe::Dns(dns) => Self::Dns(dns::Prober::new(dns, paths)),
            Probe::Udp(udp) => Self::Udp(udp::Prober::new(udp, paths)),
            Probe::Ping(target) => Self::Ping(ping::Prober::new(target)),
            Probe::File(file) => Self::File(file::Prober::new(file)),
            Probe::Misc(misc) => Self::Misc(misc::Prober::new(misc)),
        }
    }

    /// One attempt. `up`: as the server is thought to be.
    pub async fn attempt(&mut self, up: bool) -> Outcome {
        match self {
            Self::Tcp(prober) => prober.attempt().await,
            Self::Http(prober) => prober.attempt(up).await,
            Self::Smtp(prober) => prober.attempt().await,
            Self::Dns(prober) => prober.attempt().await,
            Self::Udp(prober) => prober.attempt().await,
            Self::Ping(prober) => prober.attempt().await,
            Self::File(prober) => prober.attempt().await,
            Self::Misc(prober) => prober.attempt().await,
        }
    }
}
