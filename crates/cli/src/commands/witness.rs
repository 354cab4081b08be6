//! `countersign witness`: cosign the checkpoints of logs that others run (C2SP tlog-witness).

mod state;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use countersign_ledger::witness::{AddCheckpoint, REQUEST_BYTES_MAX, Refusal};
use countersign_ledger::{Checkpoint, VerifierKey, Witness};
use countersign_store::Clock as _;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};

use self::state::StateFolder;
use crate::clock::SystemClock;

/// How long a client may take to send its request.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests that are served at a time; more are refused.
const REQUESTS_MAX: usize = 64;
/// How long running requests may take after the signal to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Cosign the checkpoints of logs that others run.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "For an auditor or a customer, on a machine that the log's operator cannot reach. A log
that was rolled back or rewritten gets no cosignature, whoever has its key.

The state folder:
  key                       the witness's secret key and name; back it up, give it to no one
  logs/<origin>.checkpoint  the last checkpoint of each log that was cosigned
  logs/<origin>.fork        a checkpoint that the log signed in contradiction to it: proof of a fork
  lock                      held while the witness runs
Never put back an older state of logs/: the witness would forget what it cosigned.

It answers POST /add-checkpoint (C2SP tlog-witness v1.0.0) and GET /healthz over plain HTTP; on a network,
put a TLS proxy before it.

Example:
  countersign witness --state ./witness --name witness.example/w1 \\
    --log 'log.example.com/acme+6580af76+Adr6pmfE1kknNa3rGoAEN35Pvrj8V9xEDfJPl9b43WEB'
  countersign witness vkey --state ./witness"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Option<Serve>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print the public key that verifies this witness's cosignatures
    #[command(after_help = "The operator of the log puts it into the policy file of its anchors:
  witness <any name> <this key> <URL of the witness>")]
    Vkey {
        /// The folder with the witness's key
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// The folder with the witness's key and what it cosigned last; made at the first start
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// The public key of a log to follow, as `countersign log vkey` prints it; may be given several times
    #[arg(long = "log", value_name = "VKEY", required = true)]
    logs: Vec<VerifierKey>,
    /// The witness's name, a URL without scheme that is yours; needed at the first start
    #[arg(long)]
    name: Option<String>,
    /// Address and port; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7780")]
    listen: String,
    /// Print the public key and the address as one JSON line when ready
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match (args.command, args.serve) {
        (Some(Command::Vkey { state }), _) => print_vkey(&state),
        (None, Some(args)) => serve(args).await,
        (None, None) => bail!("give --state and --log, see `countersign witness --help`"),
    }
}

#[expect(clippy::print_stdout, reason = "the command's output")]
fn print_vkey(folder: &std::path::Path) -> anyhow::Result<ExitCode> {
    let key = state::read_key(folder)?.with_context(|| {
        format!("{} has no key yet; the first start of the witness makes it", folder.display())
    })?;
    println!("{}", key.verifier_key());
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: Serve) -> anyhow::Result<ExitCode> {
    let (folder, key) = StateFolder::open(&args.state, args.name.as_deref())?;
    let service = Arc::new(Service::new(Witness::new(key, args.logs)?, folder)?);
    let listener = TcpListener::bind(&args.listen).await.with_context(|| {
        format!("cannot listen on {} (another witness? choose with --listen)", args.listen)
    })?;
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    announce(&service, listener.local_addr()?, args.json);
    let (stop, mut stopped) = watch::channel(false);
    let server = axum::serve(listener, router(service)).with_graceful_shutdown(async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    });
    let server = tokio::spawn(server.into_future());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.send_replace(true);
    // A client that keeps its connection open must not keep the witness from stopping.
    if let Ok(ended) = tokio::time::timeout(STOP_GRACE, server).await {
        ended.context("the server broke off")??;
    }
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command's output")]
fn announce(service: &Service, address: std::net::SocketAddr, as_json: bool) {
    let key = service.witness.verifier_key();
    if as_json {
        println!("{}", json!({"vkey": key.to_string(), "url": format!("http://{address}")}));
        return;
    }
    println!("{key}");
    eprintln!("This key goes into the policy of the logs' operators.");
    for origin in service.witness.origins() {
        eprintln!("Follows          {origin}");
    }
    eprintln!("Cosigns at       http://{address}/add-checkpoint");
    eprintln!("Stop with Ctrl-C.");
}

fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/add-checkpoint", post(add_checkpoint))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(service)
}

async fn add_checkpoint(State(service): State<Arc<Service>>, body: Body) -> Response {
    let Ok(_place) = service.places.try_acquire() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many requests at a time\n").into_response();
    };
    let read = axum::body::to_bytes(body, REQUEST_BYTES_MAX);
    let body = match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            let reason = format!("the request broke off, or has over {REQUEST_BYTES_MAX} bytes\n");
            return (StatusCode::BAD_REQUEST, reason).into_response();
        }
        Err(_) => return (StatusCode::REQUEST_TIMEOUT, "the request is late\n").into_response(),
    };
    let now = SystemClock.now_ms().unsigned_abs() / 1_000;
    let deciding = Arc::clone(&service);
    // Runs to its end even if the client goes away: what is stored is what was decided.
    let decided = tokio::task::spawn_blocking(move || deciding.add(&body, now)).await;
    match decided.map_err(anyhow::Error::from).flatten() {
        Ok(line) => line.into_response(),
        Err(error) => answer_for(&error),
    }
}

fn answer_for(error: &anyhow::Error) -> Response {
    let Some(refusal) = error.downcast_ref::<Refusal>() else {
        tracing::error!("a request failed: {error:#}");
        return (StatusCode::INTERNAL_SERVER_ERROR, "the witness failed\n").into_response();
    };
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let is_size = matches!(refusal, Refusal::Conflict { .. });
    let kind = if is_size { "text/x.tlog.size" } else { "text/plain; charset=utf-8" };
    (status, [(header::CONTENT_TYPE, kind)], format!("{refusal}\n")).into_response()
}

/// What is remembered of one log.
enum Memory {
    /// The last checkpoint that was cosigned.
    Last(Option<Checkpoint>),
    /// It could not be written, so what the disk has is not known before the next start.
    Unknown,
}

/// A witness with its memory.
struct Service {
    witness: Witness,
    folder: StateFolder,
    /// By origin. The lock is held from reading the memory to the durable write of the new one.
    logs: BTreeMap<String, Mutex<Memory>>,
    places: Semaphore,
}

impl Service {
    fn new(witness: Witness, folder: StateFolder) -> anyhow::Result<Self> {
        let mut logs = BTreeMap::new();
        for origin in witness.origins() {
            let last = match folder.read(origin)? {
                None => None,
                Some(note) => Some(witness.recall(origin, &note).with_context(|| {
                    let path = folder.checkpoint(origin);
                    format!("{} is damaged, or of another witness", path.display())
                })?),
            };
            logs.insert(origin.to_owned(), Mutex::new(Memory::Last(last)));
        }
        Ok(Self { witness, folder, logs, places: Semaphore::new(REQUESTS_MAX) })
    }

    /// Decides about a request, stores what is cosigned, and gives the line to answer with.
    fn add(&self, body: &Bytes, now: u64) -> anyhow::Result<String> {
        anyhow::ensure!(now > 0, "the machine's clock is not set");
        let request = AddCheckpoint::parse(body)?;
        let origin = self.witness.origin_of(&request)?;
        let memory = self.logs.get(origin).context("a log has no memory")?;
        let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
        let Memory::Last(last) = &*memory else {
            bail!("the state of `{origin}` could not be written: mend the disk and start again");
        };
        let cosigned = match self.witness.cosign(&request, last.as_ref(), now) {
            Ok(cosigned) => cosigned,
            Err(refusal) => {
                self.report(&request, origin, last.as_ref(), &refusal);
                return Err(refusal.into());
            }
        };
        if last.as_ref() != Some(&cosigned.checkpoint) {
            *memory = Memory::Unknown;
            self.folder.write(origin, &cosigned.note.to_bytes())?;
            *memory = Memory::Last(Some(cosigned.checkpoint));
        }
        Ok(format!("{}\n", cosigned.cosignature))
    }

    /// Tells of a log that contradicts itself, and keeps what proves it.
    fn report(
        &self,
        request: &AddCheckpoint,
        origin: &str,
        last: Option<&Checkpoint>,
        refusal: &Refusal,
    ) {
        if !matches!(refusal, Refusal::Inconsistent(_)) {
            tracing::info!(origin, %refusal, "a checkpoint was not cosigned");
            return;
        }
        tracing::warn!(origin, %refusal, "the log's key signed a checkpoint that is not proven");
        // The same size under another root needs no proof to be a fork.
        let forked = Checkpoint::parse(request.checkpoint.text())
            .is_ok_and(|new| last.is_some_and(|last| last.size == new.size && *last != new));
        if forked {
            let kept = self.folder.keep_fork(origin, &request.checkpoint.to_bytes());
            match kept {
                Ok(path) => tracing::error!(origin, "the log is FORKED: see {}", path.display()),
                Err(error) => tracing::error!(origin, "the log is FORKED; not kept: {error:#}"),
            }
        }
    }
}
