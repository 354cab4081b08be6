//! A reverse proxy that looks at nothing: it reads a request whole, sends it on, and gives the answer
//! back. What it costs is the price of a second hop on this host, whatever a gateway does there.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// The largest body that is passed on, either way.
const BODY_BYTES_MAX: usize = 1 << 20;

#[derive(Args)]
pub(crate) struct ProxyArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where every request goes
    #[arg(long)]
    upstream: Uri,
    /// Threads of the proxy
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

struct Proxy {
    upstream: Uri,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// Serves until the process is ended.
pub(crate) fn run(args: &ProxyArgs) -> anyhow::Result<()> {
    crate::runtime(args.threads)?.block_on(async {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let proxy = Arc::new(Proxy { upstream: args.upstream.clone(), client });
        let listener = TcpListener::bind(args.listen).await?;
        crate::say(&format!("http://{}/mcp", listener.local_addr()?))?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let proxy = Arc::clone(&proxy);
            let service = service_fn(move |request| {
                let proxy = Arc::clone(&proxy);
                async move { proxy.pass(request).await }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new());
            // A connection that breaks concerns its client alone, who sees it.
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    })
}

impl Proxy {
    async fn pass(&self, request: Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
        let (mut head, body) = request.into_parts();
        head.uri = self.upstream.clone();
        head.headers.remove(hyper::header::HOST);
        let request = Request::from_parts(head, Full::new(whole(body).await?));
        let (head, body) = self.client.request(request).await?.into_parts();
        Ok(Response::from_parts(head, Full::new(whole(body).await?)))
    }
}

async fn whole(body: Incoming) -> anyhow::Result<Bytes> {
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
    Ok(body.map_err(anyhow::Error::from_boxed)?.to_bytes())
}
