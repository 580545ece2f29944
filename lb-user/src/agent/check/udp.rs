//! `UDP_CHECK`: a datagram, and either the right answer to it or at least nobody who says the port is unreachable.

use tokio::time::timeout;

use super::machine::Outcome;
use super::net;
use super::path::Paths;
use crate::agent::config::model::{Reply, Udp};
use crate::agent::verdict::Weight;

/// The check.
pub struct Prober(Udp, Paths);

impl Prober {
    /// With this datagram.
    pub fn new(udp: Udp, paths: Paths) -> Self {
        Self(udp, paths)
    }

    /// One datagram.
    pub async fn attempt(&mut self) -> Outcome {
        let (socket, way) = match net::datagrams(&self.0.target, &self.1) {
            Ok(made) => made,
            // Here keepalived takes its own trouble for the server's.
            Err(net::Trouble::Server(why) | net::Trouble::Local(why)) => return Outcome::Fail(why),
        };
        if let Err(error) = socket.send(&self.0.payload).await {
            return Outcome::Fail(error.to_string());
        }
        let mut answer = vec![0; 65536];
        let received = timeout(self.0.target.timeout, socket.recv(&mut answer)).await;
        match (received, &self.0.reply) {
            (Ok(Err(error)), _) => Outcome::Fail(error.to_string()),
            (Ok(Ok(length)), Some(reply)) if !fits(&answer[..length], reply) => {
                Outcome::Fail(format!("a wrong answer of {length} bytes"))
            }
            (Err(_), Some(_)) => net::late(self.0.target.timeout).into(),
            _ => way.confirm().map_or_else(Outcome::from, |()| Outcome::Pass(Weight::Configured)),
        }
    }
}

/// Without a pattern any answer does, whatever its length.
fn fits(answer: &[u8], reply: &Reply) -> bool {
    let (least, most) = reply.length;
    reply.pattern.is_empty()
        || (least..=most).contains(&answer.len())
            && answer.iter().zip(&reply.pattern).all(|(byte, (value, mask))| byte & mask == *value)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::agent::config::model::Target;

    #[test]
    fn patterns() {
        let reply = |pattern: &[(u8, u8)], length| Reply { pattern: pattern.to_vec(), length };
        assert!(fits(&[1, 0x25, 9], &reply(&[(1, 0xff), (0x20, 0xf0)], (0, 255))));
        assert!(!fits(&[1, 0x35], &reply(&[(1, 0xff), (0x20, 0xf0)], (0, 255))));
        assert!(!fits(&[1], &reply(&[(1, 0xff)], (2, 255))));
        assert!(fits(&[7; 300], &reply(&[], (0, 255))));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn answers_and_silence() {
        let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let timeout = Duration::from_millis(300);
        let to = server.local_addr().unwrap();
        let target = Target { to, from: None, interface: None, mark: 0, timeout, via: None };
        let silent = Udp { target, payload: b"hello".to_vec(), reply: None };
        let pass = Outcome::Pass(Weight::Configured);
        assert_eq!(Prober::new(silent.clone(), Paths::default()).attempt().await, pass);
        let reply = Some(Reply { pattern: vec![(b'h', 0xff)], length: (0, 255) });
        let strict = Udp { reply, ..silent.clone() };
        assert!(matches!(Prober::new(strict.clone(), Paths::default()).attempt().await, Outcome::Fail(_)));
        let mut byte = [0; 16];
        for _ in 0..2 {
            server.recv_from(&mut byte).await.unwrap();
        }
        let echo = async {
            let (length, from) = server.recv_from(&mut byte).await.unwrap();
            server.send_to(&byte[..length], from).await.unwrap();
        };
        let mut prober = Prober::new(strict, Paths::default());
        let (outcome, ()) = tokio::join!(prober.attempt(), echo);
        assert_eq!(outcome, pass);
        drop(server);
        assert!(matches!(Prober::new(silent, Paths::default()).attempt().await, Outcome::Fail(_)));
    }
}
