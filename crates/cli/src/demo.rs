//! The demonstration server: a small MCP server over stdio with a customer database.
//!
//! It really does what its tools say: refunds are appended to `refunds.jsonl`, files are deleted,
//! pages are fetched. `quickstart` puts it behind the gateway as any other stdio server.

use std::io::Write as _;
use std::path::{Component, Path};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

/// The same definitions that the starter bundle pins.
const TOOLS: &str = include_str!("../../../policies/starter/tools/crm.json");
/// The newest revision of MCP that this server speaks.
const VERSION: &str = "2025-11-25";
/// Size limit of a fetched page, in bytes.
const PAGE_BYTES_MAX: usize = 64 * 1024;
/// Time limit of fetching a page.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Customer, order, price in dollars.
const ORDERS: [(&str, &str, u64); 4] = [
    ("Ada Lovelace", "order 990", 120),
    ("Grace Hopper", "order 991", 4_200),
    ("Alan Turing", "order 992", 9_500),
    ("Katherine Johnson", "order 993", 75),
];

/// Serves MCP on standard input and output until the input ends.
pub(crate) async fn serve() -> anyhow::Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut output = tokio::io::stdout();
    while let Some(line) = lines.next_line().await? {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        let Some(id) = message.get("id").cloned() else { continue };
        let params = message.get("params").cloned().unwrap_or_default();
        let method = message.get("method").and_then(Value::as_str).unwrap_or_default();
        let answer = match answer(method, &params).await {
            Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
            Err(error) => json!({"jsonrpc": "2.0", "id": id, "error": error}),
        };
        output.write_all(format!("{answer}\n").as_bytes()).await?;
        output.flush().await?;
    }
    Ok(())
}

async fn answer(method: &str, params: &Value) -> Result<Value, Value> {
    let definitions = || serde_json::from_str::<Value>(TOOLS).unwrap_or_default();
    match method {
        "initialize" => Ok(json!({
            "protocolVersion": VERSION,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "countersign-demo", "version": env!("CARGO_PKG_VERSION")},
            "instructions": definitions().get("instructions"),
        })),
        "ping" => Ok(json!({})),
        "tools/list" => Ok(json!({"tools": definitions().get("tools")})),
        "tools/call" => {
            let arguments = params.get("arguments").cloned().unwrap_or_default();
            let name = params.get("name").and_then(Value::as_str).unwrap_or_default();
            Ok(match call(name, &arguments).await {
                Ok(text) => json!({"content": [{"type": "text", "text": text}]}),
                Err(text) => json!({"content": [{"type": "text", "text": text}], "isError": true}),
            })
        }
        _ => Err(json!({"code": -32601, "message": format!("unknown method `{method}`")})),
    }
}

async fn call(name: &str, arguments: &Value) -> Result<String, String> {
    let text = |key: &str| arguments.get(key).and_then(Value::as_str).unwrap_or_default();
    match name {
        "query" => Ok(query(text("query"), arguments.get("limit").and_then(Value::as_u64))),
        "refund" => {
            let paid = json!({"order_id": text("order_id"), "amount": arguments.get("amount")});
            append("refunds.jsonl", &paid)?;
            Ok(format!(
                "paid back {} dollars for {}",
                arguments.get("amount").unwrap_or(&Value::Null),
                text("order_id")
            ))
        }
        "delete_file" => delete(Path::new(text("path"))),
        "send_email" => {
            append("outbox.jsonl", arguments)?;
            Ok(format!("sent to {}", text("to")))
        }
        "fetch_url" => fetch(text("url")).await,
        _ => Err(format!("there is no tool `{name}`")),
    }
}

fn query(search: &str, limit: Option<u64>) -> String {
    let search = search.to_lowercase();
    let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(usize::MAX);
    let rows: Vec<_> = ORDERS
        .iter()
        .map(|(customer, order, price)| format!("{customer}: {order}, {price} dollars"))
        .filter(|row| row.to_lowercase().contains(&search))
        .take(limit)
        .collect();
    if rows.is_empty() { "nothing found".into() } else { rows.join("\n") }
}

fn append(file: &str, line: &Value) -> Result<(), String> {
    let written = std::fs::OpenOptions::new().create(true).append(true).open(file);
    written.and_then(|mut file| writeln!(file, "{line}")).map_err(|error| error.to_string())
}

/// Deletes a file below the working directory.
fn delete(path: &Path) -> Result<String, String> {
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err("the path must stay below the folder".into());
    }
    std::fs::remove_file(path).map_err(|error| error.to_string())?;
    Ok(format!("deleted {}", path.display()))
}

/// Fetches a page over plain HTTP.
async fn fetch(url: &str) -> Result<String, String> {
    let uri: hyper::Uri = url.parse().map_err(|_| "this is no URL".to_owned())?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<hyper::body::Bytes>>();
    let page = async {
        let answer = client.get(uri).await.map_err(|error| error.to_string())?;
        let body = Limited::new(answer.into_body(), PAGE_BYTES_MAX).collect().await;
        let bytes = body.map_err(|error| error.to_string())?.to_bytes();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    tokio::time::timeout(FETCH_TIMEOUT, page).await.unwrap_or_else(|_| Err("timed out".into()))
}
