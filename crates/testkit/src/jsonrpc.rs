use serde_json::{Value, json};

/// `_meta` key of the protocol version a modern request speaks.
pub(crate) const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// `_meta` key of the capabilities the client declares on a modern request.
pub(crate) const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// `_meta` key of the log level a modern request asks for.
pub(crate) const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// `_meta` key of the server's self-description on modern results.
pub(crate) const META_SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
/// `_meta` key that ties a notification to its `subscriptions/listen` request.
pub(crate) const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// `HeaderMismatch` of 2026-07-28.
pub(crate) const HEADER_MISMATCH: i64 = -32020;
/// `MissingRequiredClientCapability` of 2026-07-28.
pub(crate) const MISSING_CAPABILITY: i64 = -32021;
/// `UnsupportedProtocolVersion` of 2026-07-28.
pub(crate) const UNSUPPORTED_VERSION: i64 = -32022;
/// JSON-RPC: not JSON.
pub(crate) const PARSE_ERROR: i64 = -32700;
/// JSON-RPC: not a request.
pub(crate) const INVALID_REQUEST: i64 = -32600;
/// JSON-RPC: no such method.
pub(crate) const METHOD_NOT_FOUND: i64 = -32601;
/// JSON-RPC: wrong parameters.
pub(crate) const INVALID_PARAMS: i64 = -32602;
/// JSON-RPC: the server failed.
pub(crate) const INTERNAL_ERROR: i64 = -32603;
/// What SDK servers of the legacy era answer when the transport is misused.
pub(crate) const LEGACY_BAD_REQUEST: i64 = -32000;
/// Legacy code of a missing resource.
pub(crate) const LEGACY_RESOURCE_NOT_FOUND: i64 = -32002;

/// A JSON-RPC error with the HTTP status it travels under.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) status: u16,
    pub(crate) code: i64,
    pub(crate) message: String,
    pub(crate) data: Option<Value>,
}

impl Fault {
    pub(crate) fn new(status: u16, code: i64, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), data: None }
    }

    pub(crate) fn with_data(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    /// A request that was understood but has wrong parameters; HTTP 200, like any other answer.
    pub(crate) fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(200, INVALID_PARAMS, message)
    }

    pub(crate) fn header(message: impl Into<String>) -> Self {
        Self::new(400, HEADER_MISMATCH, message)
    }

    /// The error response to the request with this id.
    pub(crate) fn to_response(&self, id: &Value) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let (Some(data), Some(fields)) = (&self.data, error.as_object_mut()) {
            fields.insert("data".into(), data.clone());
        }
        json!({ "jsonrpc": "2.0", "id": id, "error": error })
    }
}

/// A success response.
pub(crate) fn response(id: &Value, result: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": result })
}

/// A notification.
pub(crate) fn notification(method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "method": method, "params": params })
}

/// The `_meta` member `key` of a message's params.
pub(crate) fn meta<'a>(message: &'a Value, key: &str) -> Option<&'a Value> {
    message.get("params")?.get("_meta")?.get(key)
}

/// The string at `pointer`, or an empty one.
pub(crate) fn text_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
