//! What clients of either era get where the server is of the other one, asks back, or is told to stop.

use countersign_testkit::Behaviour;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::world::{Answer, PERMIT_ALL, World, modern_body};

/// A client of the stateful era.
struct Legacy<'w> {
    world: &'w World,
    session: String,
}

impl<'w> Legacy<'w> {
    async fn open(world: &'w World) -> Self {
        let mut client = Self { world, session: String::new() };
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"}});
        let answer = client.request("initialize", params).await;
        let session = answer.headers.get("mcp-session-id").unwrap().to_str().unwrap();
        client.session = session.to_owned();
        client
    }

    async fn request(&self, method: &str, params: Value) -> Answer {
        self.send(json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})).await
    }

    async fn send(&self, message: Value) -> Answer {
        let request = hyper::Request::post(format!("{}/mcp/fake", self.world.url))
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("authorization", format!("Bearer {}", self.world.key))
            .header("mcp-session-id", &self.session);
        self.world.send(request.body(Full::from(message.to_string())).unwrap()).await
    }
}

fn listens(world: &World) -> Vec<Value> {
    let requests = world.upstream.requests();
    let listens = requests.iter().filter(|seen| seen.method() == "subscriptions/listen");
    listens.map(|seen| seen.body["params"]["notifications"].clone()).collect()
}

#[tokio::test]
async fn answers_that_come_with_the_call_are_used_when_the_server_asks() {
    let world = World::new(PERMIT_ALL).await;
    let call = async |answers: Value| {
        let meta = json!({"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}});
        let params = json!({"name": "test_input_required_result_elicitation", "arguments": {},
            "inputResponses": answers, "_meta": meta});
        world.modern("/mcp/fake", "tools/call", params).await.body["result"].clone()
    };
    let given = json!({"action": "accept", "content": {"name": "Ada"}});
    let result = call(json!({"user_name": given, "another": given})).await;
    assert_eq!(result["resultType"], "complete", "{result}");
    assert!(result.to_string().contains("Ada"), "{result}");
    // The call, the question, and the round with the answer.
    assert_eq!(world.kind("decision").await.len(), 3);

    let asked = call(json!({"another": given})).await;
    assert_eq!(asked["resultType"], "input_required", "{asked}");
    assert!(asked["inputRequests"].get("user_name").is_some(), "{asked}");
}

#[tokio::test]
async fn a_client_is_not_asked_while_the_log_is_not_anchored() {
    let world = World::new(PERMIT_ALL).await;
    world.upstream.behave(Behaviour::Late(std::time::Duration::from_secs(1)));
    let meta = json!({"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}});
    let params =
        json!({"name": "test_input_required_result_elicitation", "arguments": {}, "_meta": meta});
    let close = async {
        while world.kind("decision").await.is_empty() {
            tokio::task::yield_now().await;
        }
        world.gateway.gate().set_closed(true);
    };
    let call = world.modern("/mcp/fake", "tools/call", params);
    let (answer, ()) = futures_util::future::join(call, close).await;
    assert!(answer.body["result"].get("inputRequests").is_none(), "{answer:?}");
    let decisions = world.kind("decision").await;
    let verdicts: Vec<_> = decisions.iter().map(|leaf| &leaf["decision"]).collect();
    assert_eq!(verdicts, ["allow", "deny"]);
    assert_eq!(decisions[1]["reasons"], json!(["AUDIT_UNAVAILABLE"]));
}

#[tokio::test]
async fn servers_hear_of_no_extension() {
    let world = World::new(PERMIT_ALL).await;
    let declared = json!({"extensions": {"io.modelcontextprotocol/tasks": {}}, "elicitation": {}});
    let meta = json!({"io.modelcontextprotocol/clientCapabilities": declared});
    let params = json!({"name": "echo", "arguments": {"text": "x"}, "_meta": meta});
    let answer = world.modern("/mcp/fake", "tools/call", params).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let call = world.upstream.requests().pop().unwrap();
    let heard = &call.body["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"];
    assert_eq!(*heard, json!({"elicitation": {}}));
}

#[tokio::test]
async fn a_session_subscribes_at_a_server_without_sessions() {
    let world = World::new(PERMIT_ALL).await;
    let client = Legacy::open(&world).await;
    let uri = json!({"uri": "test://watched-resource"});
    let answer = client.request("resources/subscribe", uri.clone()).await;
    assert_eq!(answer.body["result"], empty_result(&answer), "{answer:?}");
    assert_eq!(listens(&world), [json!({"resourceSubscriptions": [uri["uri"]]})]);
    let answer = client.request("resources/unsubscribe", uri).await;
    assert_eq!(answer.body["result"], empty_result(&answer), "{answer:?}");
    assert_eq!(world.kind("decision").await.len(), 2);
    assert_eq!(world.kind("outcome").await.len(), 2);
}

/// An empty result but for the id of its decision.
fn empty_result(answer: &Answer) -> Value {
    let id = &answer.body["result"]["_meta"]["dev.countersign/evaluation-id"];
    assert!(id.is_string(), "{answer:?}");
    json!({"_meta": {"dev.countersign/evaluation-id": id}})
}

#[tokio::test]
async fn a_denied_subscription_reaches_no_server() {
    let policy = "@id(\"all\") permit(principal, action, resource);
        @id(\"no\") forbid(principal, action == Action::\"mcp.subscribe\", resource);";
    let world = World::new(policy).await;
    let client = Legacy::open(&world).await;
    let uri = json!({"uri": "test://watched-resource"});
    let answer = client.request("resources/subscribe", uri).await;
    assert_eq!(answer.body["error"]["code"], 1403, "{answer:?}");
    assert!(listens(&world).is_empty());
}

#[tokio::test]
async fn a_subscription_on_the_federated_endpoint_hears_every_server() {
    let world = World::new(PERMIT_ALL).await;
    let wanted = json!({"promptsListChanged": true});
    let body = modern_body("subscriptions/listen", json!({"notifications": wanted}));
    let request = world.modern_request(&world.key, "/mcp", &body);
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let response = client.request(request.body(Full::from(body.to_string())).unwrap()).await;
    let mut stream = response.unwrap().into_body();
    let mut text = String::new();
    while !text.contains("notifications/subscriptions/acknowledged") {
        let frame = stream.frame().await.unwrap().unwrap().into_data().unwrap();
        text.push_str(&String::from_utf8_lossy(&frame));
    }
    assert_eq!(listens(&world), [wanted]);
    assert_eq!(world.kind("decision").await.len(), 1);
}

#[tokio::test]
async fn a_cancelled_call_gets_no_response_but_an_outcome() {
    let world = World::new(PERMIT_ALL).await;
    let client = Legacy::open(&world).await;
    world.upstream.behave(Behaviour::Stall);
    let call = client.request("tools/call", json!({"name": "echo", "arguments": {"text": "x"}}));
    let cancel = async {
        world.upstream.wait_for_calls(1).await;
        let params = json!({"requestId": 1});
        client
            .send(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}))
            .await
    };
    let (answer, cancelled) = tokio::join!(call, cancel);
    assert_eq!((cancelled.status, answer.status), (202, 200));
    assert_eq!(answer.headers.get("content-type").unwrap(), "text/event-stream");
    assert_eq!(answer.body, Value::Null);
    loop {
        if let Some(outcome) = world.kind("outcome").await.pop() {
            assert_eq!(outcome["outcome"], "unknown");
            break;
        }
        tokio::task::yield_now().await;
    }
}
