use serde_json::{Value, json};

/// The `_meta` of a modern request.
pub(crate) fn modern_meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": { "elicitation": {}, "sampling": {} },
    })
}

/// A modern `tools/call`.
pub(crate) fn modern_call(id: u64, tool: &str, arguments: &Value) -> Value {
    let params = json!({ "name": tool, "arguments": arguments, "_meta": modern_meta() });
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params })
}
