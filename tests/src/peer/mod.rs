//! Real servers and clients.

pub mod curl;
pub mod http;
pub mod iperf;
pub mod nginx;
pub mod udp;
pub mod vsftpd;

pub use http::Connection;
pub use nginx::{Content, Nginx};
pub use udp::Echo;
pub use vsftpd::Vsftpd;
