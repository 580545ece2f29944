//! HTTP: `GET /metrics`, and nothing else.

use std::convert::Infallible;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::prometheus_text;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

/// Connections at once; whoever comes on top waits.
const MOST: usize = 8;
/// For a request's head, and for a whole answer. Prometheus itself gives up after 10 seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where to listen. A port alone is on this machine only.
pub fn address(text: &str) -> std::result::Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    text.parse().map_err(|_| "a port, or ADDRESS:PORT, is wanted".to_owned())
}

/// Takes the address, before anything has been changed that would have to be undone.
pub fn bind(at: SocketAddr) -> Result<TcpListener> {
    let bind = || {
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        std::io::Result::Ok(listener)
    };
    bind().with_context(|| format!("metrics cannot be served at {at}"))
}

/// Answers scrapes with what `page` makes, for as long as the runtime runs.
pub async fn serve<F>(
    listener: TcpListener,
    page: impl Fn() -> F + Clone + Send + Sync + 'static,
) -> Result<()>
where
    F: Future<Output = Result<String>> + Send,
{
    let listener = tokio::net::TcpListener::from_std(listener).context("listening")?;
    info!("Metrics at http://{}/metrics", listener.local_addr().context("listening")?);
    let room = Arc::new(Semaphore::new(MOST));
    loop {
        let Ok(seat) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!("metrics: {error}");
                // Most likely there are no descriptors left.
                sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let page = page.clone();
        tokio::spawn(async move {
            let _seat = seat;
            let answers = service_fn(move |request| answer(request, page.clone()));
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
            if let Err(error) = server.serve_connection(TokioIo::new(stream), answers).await {
                debug!("metrics: {error}");
            }
        });
    }
}

async fn answer<B, F>(
    request: Request<B>,
    page: impl Fn() -> F,
) -> std::result::Result<Response<Full<Bytes>>, Infallible>
where
    F: Future<Output = Result<String>>,
{
    let mut response = Response::new(Full::default());
    if request.uri().path() != "/metrics" {
        *response.status_mut() = StatusCode::NOT_FOUND;
        *response.body_mut() = Full::from("/metrics is here\n");
    } else if !matches!(*request.method(), Method::GET | Method::HEAD) {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
    } else {
        let (status, text) = match timeout(PATIENCE, page()).await {
            Ok(Ok(text)) => (StatusCode::OK, text),
            Ok(Err(why)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why:#}\n")),
            Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the agent is busy\n".to_owned()),
        };
        *response.status_mut() = status;
        *response.body_mut() = Full::from(text);
    }
    let kind = match response.status() {
        StatusCode::OK => prometheus_text::CONTENT_TYPE,
        _ => "text/plain",
    };
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_local() {
        assert_eq!(address("9110").unwrap().to_string(), "127.0.0.1:9110");
        assert_eq!(address("[::]:9110").unwrap().to_string(), "[::]:9110");
        for wrong in ["", "x", "127.0.0.1", "70000", "127.0.0.1:70000", ":9110"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
