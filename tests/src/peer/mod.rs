//! Real servers and clients.

pub mod bird;
pub mod curl;
pub mod daemon;
pub mod flows;
pub mod http;
pub mod iperf;
pub mod keepalived;
pub mod nginx;
pub mod pulse;
pub mod udp;
pub mod vsftpd;

pub use daemon::Daemon;
pub use flows::Flows;
pub use http::Connection;
pub use nginx::{Content, Nginx};
pub use pulse::{Beat, Pulse};
pub use udp::Echo;
pub use vsftpd::Vsftpd;
