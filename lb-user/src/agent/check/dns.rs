//! `DNS_CHECK`: a question that is answered without an error, whatever the answer.

use std::hash::{BuildHasher as _, RandomState};
use std::str::FromStr as _;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::time::{Instant, timeout_at};

use super::machine::Outcome;
use super::net::{self, Trouble};
use super::path::Paths;
use crate::agent::config::model::Dns;
use crate::agent::verdict::Weight;

/// The check.
pub struct Prober(Dns, Paths);

impl Prober {
    /// With this question.
    pub fn new(dns: Dns, paths: Paths) -> Self {
        Self(dns, paths)
    }

    /// One question.
    pub async fn attempt(&mut self) -> Outcome {
        match self.ask().await {
            Ok(()) => Outcome::Pass(Weight::Configured),
            Err(trouble) => trouble.into(),
        }
    }

    async fn ask(&self) -> Result<(), Trouble> {
        let id = RandomState::new().hash_one(0) as u16;
        let question = question(&self.0, id).map_err(Trouble::Local)?;
        let (socket, way) = net::datagrams(&self.0.target, &self.1)?;
        let server = |error: std::io::Error| Trouble::Server(error.to_string());
        socket.send(&question).await.map_err(server)?;
        let deadline = Instant::now() + self.0.target.timeout;
        let mut bytes = vec![0; 65536];
        loop {
            let received = timeout_at(deadline, socket.recv(&mut bytes)).await;
            let length = received.map_err(|_| net::late(self.0.target.timeout))?.map_err(server)?;
            match code(&bytes[..length], id) {
                Some(ResponseCode::NoError) => return way.confirm(),
                Some(code) => return Err(Trouble::Server(format!("answer: {code}"))),
                // Somebody else's.
                None => {}
            }
        }
    }
}

fn question(dns: &Dns, id: u16) -> Result<Vec<u8>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{} {}: {error}", dns.kind, dns.name);
    let mut name = Name::from_ascii(&dns.name).map_err(|error| wrong(&error))?;
    name.set_fqdn(true);
    let kind = RecordType::from_str(&dns.kind).map_err(|error| wrong(&error))?;
    let mut message = Message::new();
    message.set_id(id).set_message_type(MessageType::Query).set_op_code(OpCode::Query);
    message.set_recursion_desired(true).add_query(Query::query(name, kind));
    message.to_vec().map_err(|error| wrong(&error))
}

/// The code of an answer to the question of this number. Only the header is looked at.
fn code(bytes: &[u8], id: u16) -> Option<ResponseCode> {
    let [high, low, flags, code] = *bytes.first_chunk::<4>()?;
    let is_answer = bytes.len() >= 12 && u16::from_be_bytes([high, low]) == id && flags & 0x80 != 0;
    is_answer.then(|| ResponseCode::from(0, code & 0xf))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::agent::config::model::Target;

    #[tokio::test(flavor = "current_thread")]
    async fn questions_and_answers() {
        let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (to, timeout) = (server.local_addr().unwrap(), Duration::from_secs(2));
        let target = Target { to, from: None, interface: None, mark: 0, timeout, via: None };
        let dns = Dns { target, kind: "AAAA".to_owned(), name: "probe.example.org".to_owned() };
        let mut prober = Prober::new(dns, Paths::default());
        for (flags, expected) in [(0x80, true), (0x83, false)] {
            let answer = async {
                let mut bytes = [0; 512];
                let (length, from) = server.recv_from(&mut bytes).await.unwrap();
                let asked = Message::from_vec(&bytes[..length]).unwrap();
                let query = &asked.queries()[0];
                assert_eq!(
                    (query.name().to_string().as_str(), query.query_type()),
                    ("probe.example.org.", RecordType::AAAA)
                );
                // A stranger's first.
                server
                    .send_to(&[bytes[0] ^ 1, bytes[1], 0x80, 2, 0, 0, 0, 0, 0, 0, 0, 0], from)
                    .await
                    .unwrap();
                let header = [bytes[0], bytes[1], 0x80, flags & 0xf, 0, 0, 0, 0, 0, 0, 0, 0];
                server.send_to(&header, from).await.unwrap();
            };
            let (outcome, ()) = tokio::join!(prober.attempt(), answer);
            assert_eq!(outcome == Outcome::Pass(Weight::Configured), expected, "{outcome:?}");
        }
    }
}
