//! The one thing that is served over TCP, and only where somebody asked for it: metrics.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use stillpoint_contract::{Error, ErrorKind, Result, code};
use tokio::{net::TcpListener, sync::Semaphore};

use super::metrics::CONTENT_TYPE;

/// Connections that are served at once; more wait.
const CONNECTIONS_MAX: usize = 8;

/// How long somebody may take to say what they want.
const ASK_MAX: Duration = Duration::from_secs(10);

/// Listens.
pub(super) async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|cause| {
        Error::new(ErrorKind::Config, code::LISTEN, "listen for those who ask for metrics")
            .with("address", address)
            .caused_by(cause)
            .next("another address in [coordinator] metrics, or none")
    })
}

/// Answers whoever asks, for ever.
pub(super) async fn serve(listener: TcpListener, page: impl AsyncFn() -> String) {
    let places = Semaphore::new(CONNECTIONS_MAX);
    let page = Arc::new(page);
    let mut open = futures::stream::FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let (places, page) = (&places, Arc::clone(&page));
                open.push(async move {
                    let Ok(_place) = places.acquire().await else { return };
                    let service = service_fn(|request| answer(request, &*page));
                    let connection = hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(ASK_MAX)
                        .keep_alive(false)
                        .serve_connection(TokioIo::new(stream), service);
                    if let Err(error) = connection.await {
                        tracing::debug!(event = "metrics.failed", "{error}");
                    }
                });
            }
            Some(()) = futures::StreamExt::next(&mut open), if !open.is_empty() => {}
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    page: &impl AsyncFn() -> String,
) -> std::result::Result<Response<String>, Infallible> {
    let is_asked = request.method() == Method::GET && request.uri().path() == "/metrics";
    let mut response = Response::new(if is_asked { page().await } else { String::new() });
    if is_asked {
        let kind = hyper::header::HeaderValue::from_static(CONTENT_TYPE);
        response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
    } else {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    Ok(response)
}
