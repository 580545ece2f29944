//! `SMTP_CHECK`: hello and goodbye.

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::machine::Outcome;
use super::net::{self, Trouble};
use super::path::Paths;
use crate::agent::config::model::Smtp;
use crate::agent::verdict::Weight;

/// A line may not be longer.
const LONGEST: u64 = 512;

/// The check.
pub struct Prober(Smtp, Paths);

impl Prober {
    /// Of this server.
    pub fn new(smtp: Smtp, paths: Paths) -> Self {
        Self(smtp, paths)
    }

    /// One conversation.
    pub async fn attempt(&mut self) -> Outcome {
        match self.talk().await {
            Ok(()) => Outcome::Pass(Weight::Configured),
            Err(trouble) => trouble.into(),
        }
    }

    async fn talk(&self) -> Result<(), Trouble> {
        let mut stream = BufReader::new(net::connect(&self.0.target, &self.1).await?);
        self.expect(&mut stream, Some("220")).await?;
        self.say(&mut stream, &format!("HELO {}\r\n", self.0.helo)).await?;
        self.expect(&mut stream, Some("250")).await?;
        self.say(&mut stream, "QUIT\r\n").await?;
        self.expect(&mut stream, None).await
    }

    async fn say(&self, stream: &mut BufReader<TcpStream>, line: &str) -> Result<(), Trouble> {
        net::within(self.0.target.timeout, stream.write_all(line.as_bytes())).await
    }

    /// A line with this code, or any.
    async fn expect(&self, stream: &mut BufReader<TcpStream>, code: Option<&str>) -> Result<(), Trouble> {
        let mut line = Vec::new();
        let mut limited = stream.take(LONGEST);
        net::within(self.0.target.timeout, limited.read_until(b'\n', &mut line)).await?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        let good = match code {
            None => !line.is_empty(),
            Some(code) => {
                line.strip_prefix(code).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
            }
        };
        if good {
            Ok(())
        } else {
            Err(Trouble::Server(format!("{} expected, not `{line}`", code.unwrap_or("a line"))))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;
    use crate::agent::config::model::Target;

    #[tokio::test(flavor = "current_thread")]
    async fn conversations() {
        for (banner, expected) in
            [("220 hello", true), ("220", true), ("220-hello", false), ("554 no", false)]
        {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (to, timeout) = (listener.local_addr().unwrap(), Duration::from_secs(2));
            let target = Target { to, from: None, interface: None, mark: 0, timeout, via: None };
            let server = async {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = BufReader::new(stream);
                stream.write_all(format!("{banner}\r\n").as_bytes()).await.unwrap();
                let mut said = String::new();
                for answer in ["250 you\r\n", "221 bye\r\n"] {
                    if stream.read_line(&mut said).await.unwrap() > 0 {
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                }
                said
            };
            let mut prober = Prober::new(Smtp { target, helo: "me".to_owned() }, Paths::default());
            let (outcome, said) = tokio::join!(prober.attempt(), server);
            assert_eq!(outcome == Outcome::Pass(Weight::Configured), expected, "{banner}: {outcome:?}");
            assert_eq!(said == "HELO me\r\nQUIT\r\n", expected, "{said}");
        }
    }
}
