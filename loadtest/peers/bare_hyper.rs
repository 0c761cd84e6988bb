//! The yardstick that `loadtest/compare` divides by: a bare hyper server that reads the body and answers a constant 202.
//!
//! It decides nothing, checks nothing, keeps nothing. What it leaves out is what Forebay is measured for, so it must
//! stay as fast as hyper goes without tricks: HTTP/1.1 with the builder's defaults, one thread, no Nagle delay,
//! keep-alive, and the allocator and the build profile of the product. Do not teach it anything else.
//!
//! Usage: `bare_hyper [PORT]` (0, the default, picks a free one); prints the port it bound, alone on its line.

use std::convert::Infallible;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sent with every answer, whatever was asked.
const BODY: &[u8] = br#"{"status":"accepted"}"#;

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    request.into_body().collect().await?;
    let mut response = Response::new(Full::new(Bytes::from_static(BODY)));
    *response.status_mut() = StatusCode::ACCEPTED;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

async fn serve(port: u16) -> anyhow::Result<Infallible> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", listener.local_addr()?.port())?;
    stdout.flush()?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            // A load generator that hangs up in the middle of a request is the normal end of a run, not an error.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

fn main() -> anyhow::Result<()> {
    let port = match std::env::args().nth(1) {
        Some(text) => text.parse().map_err(|e| anyhow::anyhow!("port {text:?}: {e}; expected 0 to 65535"))?,
        None => 0,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    match runtime.block_on(serve(port))? {}
}
