//! `HTTP_GET` and `SSL_GET`: pages, one an attempt, in turn.
//!
//! The request and what is looked at in the reply are keepalived's to the byte; so it is written here and not left to an
//! HTTP client, which would mend what a check is meant to find.

use md5::{Digest as _, Md5};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::machine::Outcome;
use super::net::{self, Trouble};
use super::path::Paths;
use super::tls;
use crate::agent::config::model::{Http, HttpProtocol, Regex, Url};
use crate::agent::verdict::Weight;

/// A longer reply is a failure.
const LONGEST: usize = 16 << 20;
const HEADERS: usize = 128;

/// The check.
pub struct Prober {
    http: Http,
    paths: Paths,
    connector: Option<tls::Connector>,
    /// The page that is due.
    at: usize,
    /// How many passed since one failed.
    passed: usize,
}

impl Prober {
    /// Of these pages.
    pub fn new(http: Http, paths: Paths) -> Self {
        let connector = http.tls.clone().map(tls::Connector::new);
        Self { http, paths, connector, at: 0, passed: 0 }
    }

    /// The page that is due. Down, all of them have to pass, beginning with the one that failed.
    pub async fn attempt(&mut self, up: bool) -> Outcome {
        let Some(url) = self.http.urls.get(self.at).cloned() else {
            return Outcome::Pass(Weight::Configured);
        };
        match self.page(&url).await {
            Ok(()) => {
                self.passed += 1;
                self.at = (self.at + 1) % self.http.urls.len();
                let enough = up || self.http.fast_recovery || self.passed >= self.http.urls.len();
                if enough { Outcome::Pass(Weight::Configured) } else { Outcome::Part }
            }
            Err(Trouble::Server(why)) => {
                self.passed = 0;
                Outcome::Fail(format!("{}: {why}", url.path))
            }
            Err(trouble) => trouble.into(),
        }
    }

    async fn page(&mut self, url: &Url) -> Result<(), Trouble> {
        let stream = net::connect(&self.http.target, &self.paths).await?;
        let request = request(&self.http, url);
        let reply = match &mut self.connector {
            None => self.exchange(stream, &request).await?,
            Some(connector) => {
                let host = url.virtualhost.as_deref();
                let connecting = connector.connect(host, self.http.target.whom().ip(), stream);
                let limit = self.http.target.timeout;
                let stream =
                    tokio::time::timeout(limit, connecting).await.map_err(|_| net::late(limit))??;
                self.exchange(stream, &request).await?
            }
        };
        judge(&reply, url).map_err(Trouble::Server)
    }

    /// Sends the request and reads until the server closes.
    async fn exchange(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        request: &str,
    ) -> Result<Vec<u8>, Trouble> {
        let limit = self.http.target.timeout;
        net::within(limit, async {
            stream.write_all(request.as_bytes()).await?;
            stream.flush().await
        })
        .await?;
        let (mut reply, mut part) = (Vec::new(), vec![0; 16384]);
        loop {
            let read = stream.read(&mut part);
            match tokio::time::timeout(limit, read).await.map_err(|_| net::late(limit))? {
                Ok(0) => return Ok(reply),
                Ok(length) => reply.extend_from_slice(&part[..length]),
                // Many servers do not say goodbye in TLS.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(reply),
                Err(error) => return Err(Trouble::Server(error.to_string())),
            }
            if reply.len() > LONGEST {
                return Err(Trouble::Server(format!("more than {LONGEST} bytes")));
            }
        }
    }
}

fn request(http: &Http, url: &Url) -> String {
    let (version, close) = match http.protocol {
        HttpProtocol::V10 => ("1.0", ""),
        HttpProtocol::V10Close => ("1.0", "Connection: close\r\n"),
        HttpProtocol::V11 => ("1.1", "Connection: close\r\n"),
    };
    let host = url.virtualhost.clone().unwrap_or_else(|| http.target.whom().to_string());
    let path = &url.path;
    format!("GET {path} HTTP/{version}\r\nUser-Agent: KeepAliveClient\r\n{close}Host: {host}\r\n\r\n")
}

/// Is the page good? Why not.
fn judge(reply: &[u8], url: &Url) -> Result<(), String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let length = match head.parse(reply) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if reply.is_empty() => return Err("no reply".to_owned()),
        Ok(httparse::Status::Partial) => return Err("the headers do not end".to_owned()),
        Err(error) => return Err(format!("no HTTP: {error}")),
    };
    let code = head.code.unwrap_or(0);
    let usual = [(200, 299)];
    let wanted = if url.status.is_empty() { &usual[..] } else { &url.status };
    if !wanted.iter().any(|(from, to)| (from..=to).contains(&&code)) {
        return Err(format!("status {code}"));
    }
    let body = reply.get(length..).unwrap_or_default();
    let said = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let said = said.and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse::<usize>().ok());
    let body = said.and_then(|said| body.get(..said)).unwrap_or(body);
    if let Some(digest) = url.digest {
        let found: [u8; 16] = Md5::digest(body).into();
        if found != digest {
            return Err(format!("digest {:032x}", u128::from_be_bytes(found)));
        }
    }
    url.regex.as_ref().map_or(Ok(()), |regex| matches(regex, body))
}

fn matches(regex: &Regex, body: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(body);
    let expression = fancy_regex::Regex::new(&regex.pattern).map_err(|error| error.to_string())?;
    let (from, to) = regex.offsets;
    let found = text.get(from..).is_some() && {
        let found = expression.find_from_pos(&text, from).map_err(|error| error.to_string())?;
        found.is_some_and(|found| to.is_none_or(|to| found.start() < to))
    };
    match (found, regex.no_match) {
        (true, false) | (false, true) => Ok(()),
        (true, true) => Err("the page matches".to_owned()),
        (false, false) => Err("the page does not match".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;
    use crate::agent::config::model::Target;

    fn url(path: &str) -> Url {
        Url { path: path.to_owned(), digest: None, status: Vec::new(), virtualhost: None, regex: None }
    }

    fn http(to: &str, urls: Vec<Url>) -> Http {
        let timeout = Duration::from_secs(2);
        let target =
            Target { to: to.parse().unwrap(), from: None, interface: None, mark: 0, timeout, via: None };
        Http { target, urls, protocol: HttpProtocol::V10, fast_recovery: false, tls: None }
    }

    #[test]
    fn requests() {
        let plain = http("10.0.0.1:80", vec![]);
        assert_eq!(
            request(&plain, &url("/a")),
            "GET /a HTTP/1.0\r\nUser-Agent: KeepAliveClient\r\nHost: 10.0.0.1:80\r\n\r\n"
        );
        let modern = Http { protocol: HttpProtocol::V11, ..http("[fd00::1]:80", vec![]) };
        let named = Url { virtualhost: Some("a.example".to_owned()), ..url("/") };
        assert_eq!(
            request(&modern, &named),
            "GET / HTTP/1.1\r\nUser-Agent: KeepAliveClient\r\nConnection: close\r\nHost: a.example\r\n\r\n"
        );
        assert!(request(&modern, &url("/")).contains("Host: [fd00::1]:80\r\n"));
    }

    #[test]
    fn replies() {
        let good = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok and more";
        assert_eq!(judge(good, &url("/")), Ok(()));
        // MD5 of `ok`.
        let digest = Some(0x444b_cb3a_3fcf_8389_296c_4946_7f27_e1d6_u128.to_be_bytes());
        assert_eq!(judge(good, &Url { digest, ..url("/") }), Ok(()));
        let digest = Some([0; 16]);
        assert_eq!(
            judge(good, &Url { digest, ..url("/") }),
            Err("digest 444bcb3a3fcf8389296c49467f27e1d6".to_owned())
        );
        assert_eq!(judge(good, &Url { status: vec![(404, 404)], ..url("/") }), Err("status 200".to_owned()));
        assert_eq!(judge(b"HTTP/1.1 302 Found\r\n\r\n", &url("/")), Err("status 302".to_owned()));
        assert!(judge(b"HTTP/1.1 200 OK\r\nA: b\r\n", &url("/")).is_err());
        assert!(judge(b"", &url("/")).is_err() && judge(b"hello", &url("/")).is_err());
    }

    #[test]
    fn expressions() {
        let page = b"HTTP/1.0 200 OK\r\n\r\nstate=up";
        let with = |pattern: &str, no_match, offsets| {
            let regex = Some(Regex { pattern: pattern.to_owned(), no_match, offsets });
            judge(page, &Url { regex, ..url("/") }).is_ok()
        };
        assert!(with("up$", false, (0, None)) && !with("up$", true, (0, None)));
        assert!(!with("down", false, (0, None)) && with("down", true, (0, None)));
        assert!(with("up", false, (6, Some(7))) && !with("up", false, (7, None)));
        assert!(!with("up", false, (0, Some(6))) && !with("up", false, (99, None)));
    }

    /// One page an attempt; after a failure all of them, that one first.
    #[tokio::test(flavor = "current_thread")]
    async fn pages_take_turns() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap().to_string();
        let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = asked.clone();
        tokio::spawn(async move {
            for attempt in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 1000];
                let length = stream.read(&mut request).await.unwrap();
                let text = String::from_utf8_lossy(&request[..length]).into_owned();
                seen.lock().unwrap().push(text.split(' ').nth(1).unwrap().to_owned());
                let status = if attempt == 1 { 500 } else { 200 };
                stream.write_all(format!("HTTP/1.0 {status} X\r\n\r\n").as_bytes()).await.unwrap();
            }
        });
        let mut prober = Prober::new(http(&to, vec![url("/a"), url("/b"), url("/c")]), Paths::default());
        let pass = Outcome::Pass(Weight::Configured);
        assert_eq!(prober.attempt(true).await, pass);
        assert_eq!(prober.attempt(true).await, Outcome::Fail("/b: status 500".to_owned()));
        let back = [prober.attempt(false).await, prober.attempt(false).await, prober.attempt(false).await];
        assert_eq!(back, [Outcome::Part, Outcome::Part, pass]);
        assert_eq!(*asked.lock().unwrap(), ["/a", "/b", "/b", "/c", "/a"]);
    }
}
