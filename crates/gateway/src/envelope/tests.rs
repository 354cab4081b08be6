use proptest::prelude::*;

use super::*;

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

#[test]
fn classifies_messages() {
    for (text, kind) in [
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, MessageKind::Request),
        (r#"{"jsonrpc":"2.0","id":"a","method":"ping","params":{}}"#, MessageKind::Request),
        (r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, MessageKind::Notification),
        (r#"{"jsonrpc":"2.0","id":-7,"result":{}}"#, MessageKind::Response),
        (r#" {"error":{"code":1,"message":""},"id":1,"jsonrpc":"2.0"} "#, MessageKind::Response),
    ] {
        assert_eq!(Envelope::parse(text.as_bytes()).unwrap().kind(), kind, "{text}");
    }
}

#[test]
fn keeps_id_and_params_as_written() {
    let text = r#"{"jsonrpc":"2.0","id":"\u0061","method":"tools\/call","params":{"n":1.50e0 }}"#;
    let envelope = Envelope::parse(text.as_bytes()).unwrap();
    assert_eq!(envelope.id.unwrap().get(), r#""\u0061""#);
    assert_eq!(envelope.method.unwrap(), "tools/call");
    assert_eq!(envelope.params.unwrap().get(), r#"{"n":1.50e0 }"#);
}

#[test]
fn refuses_what_two_parsers_could_read_differently() {
    let deep = format!(
        r#"{{"jsonrpc":"2.0","method":"a","params":{{"x":{}1{}}}}}"#,
        "[".repeat(MESSAGE_DEPTH_MAX),
        "]".repeat(MESSAGE_DEPTH_MAX)
    );
    for (text, code) in [
        (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"a"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","m\u0065thod":"b"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"name":"x","name":"y"}}"#, -32600),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"arguments":{"p":1,"\u0070":2}}}"#,
            -32600,
        ),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"a"}]"#, -32600),
        (r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1.0,"method":"a"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":true,"method":"a"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","result":{}}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":[1]}"#, -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"a"}"#, -32600),
        (r#"{"id":1,"method":"a"}"#, -32600),
        (r#""text""#, -32600),
        (r#"{"jsonrpc":"2.0","method":"a","params":{"x":"\ud83d"}}"#, -32700),
        (r#"{"jsonrpc":"2.0","method":"a","params":{"x":"\ud83d\u0041"}}"#, -32700),
        (r#"{"jsonrpc":"2.0","method":"a","params":{"\udc00":1}}"#, -32700),
        (r#"{"jsonrpc":"2.0","method":"a","params":{"x":"\u12"}}"#, -32700),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a"} {}"#, -32700),
        (r#"{"jsonrpc":"2.0","#, -32700),
        ("", -32700),
        (deep.as_str(), -32700),
    ] {
        assert_eq!(Envelope::parse(text.as_bytes()).unwrap_err().code(), code, "{text}");
    }
    assert_eq!(Envelope::parse(b"{\"a\":\"\xff\"}").unwrap_err(), EnvelopeError::NotUtf8);
    let large = vec![b' '; MESSAGE_BYTES_MAX + 1];
    assert!(matches!(Envelope::parse(&large), Err(EnvelopeError::TooLarge { .. })));
}

#[test]
fn accepts_surrogate_pairs_and_escaped_backslashes() {
    let text = r#"{"jsonrpc":"2.0","method":"a","params":{"x":"\ud83d\ude00 \\ud83d \" {"}}"#;
    assert!(Envelope::parse(text.as_bytes()).is_ok());
}

#[test]
fn many_members_are_compared_by_a_set() {
    let arguments: Vec<_> = (0..40).map(|n| format!("\"k{n}\":{n}")).collect();
    let message = |more: &str| {
        let arguments = arguments.join(",");
        format!(
            r#"{{"jsonrpc":"2.0","method":"a","params":{{"arguments":{{{arguments}{more}}}}}}}"#
        )
    };
    assert!(Envelope::parse(message("").as_bytes()).is_ok());
    assert!(Envelope::parse(message(r#","k7":0"#).as_bytes()).is_err());
}

#[test]
fn a_server_may_answer_with_a_null_id() {
    let text = br#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no"}}"#;
    assert!(Envelope::parse(text).is_err());
    let envelope = Envelope::parse_from_server(text, 1000).unwrap();
    assert_eq!((envelope.kind(), envelope.id.is_none()), (MessageKind::Response, true));
    assert!(Envelope::parse_from_server(text, 10).is_err());
}

#[test]
fn edits_members_at_one_and_two_levels() {
    let params = raw(r#"{ "name" : "old", "_meta": {"progressToken":1.0,"k":[ 1 ]}, "n": 1e2 }"#);
    for (edits, expected) in [
        (
            vec![Edit::set(&["name"], &raw("\"new\""))],
            r#"{"name":"new","_meta":{"progressToken":1.0,"k":[ 1 ]},"n":1e2}"#,
        ),
        (
            vec![Edit::set(&["_meta", "progressToken"], &raw("7")), Edit::remove(&["name"])],
            r#"{"_meta":{"progressToken":7,"k":[ 1 ]},"n":1e2}"#,
        ),
        (
            vec![Edit::remove(&["_meta", "progressToken"]), Edit::remove(&["_meta", "k"])],
            r#"{"name":"old","_meta":{},"n":1e2}"#,
        ),
        (
            vec![Edit::set(&["a", "b"], &raw("1")), Edit::set(&["a", "c"], &raw("2"))],
            r#"{"name":"old","_meta":{"progressToken":1.0,"k":[ 1 ]},"n":1e2,"a":{"b":1,"c":2}}"#,
        ),
        (
            vec![Edit::remove(&["x", "y"]), Edit::set(&["n", "x"], &raw("0"))],
            r#"{"name":"old","_meta":{"progressToken":1.0,"k":[ 1 ]},"n":{"x":0}}"#,
        ),
    ] {
        assert_eq!(edit_object(&params, &edits).unwrap().get(), expected);
    }
    assert!(edit_object(&raw("[1]"), &[]).is_err());
}

fn member_text() -> impl Strategy<Value = (String, String)> {
    let value = prop_oneof![
        Just("1.50".to_owned()),
        Just("1E2".to_owned()),
        Just("{ \"a\" : [ ] }".to_owned()),
        Just("\"\\u00e9\\/\"".to_owned()),
        "[a-z]{0,9}".prop_map(|text| format!("\"{text}\"")),
    ];
    ("[a-z]{1,6}", value)
}

proptest! {
    #[test]
    fn untouched_members_stay_as_written(
        list in prop::collection::vec(member_text(), 0..8), pick in any::<prop::sample::Index>()
    ) {
        let text = list.iter().map(|(k, v)| format!("\"{k}\" : {v}")).collect::<Vec<_>>().join(" ,\n");
        let object = raw(&format!("{{{text}}}"));
        let name = if list.is_empty() { "none" } else { &list[pick.index(list.len())].0 };
        let edited = edit_object(&object, &[Edit::set(&[name], &raw("null"))]).unwrap();
        let after = members(&edited).unwrap();
        for (index, (key, value)) in list.iter().enumerate() {
            let expected = if key == name { "null" } else { value };
            prop_assert_eq!(after[index].value.get(), expected);
            prop_assert_eq!(&*after[index].name, key);
        }
        let added = usize::from(list.is_empty());
        prop_assert_eq!(after.len(), list.len() + added);
    }

    #[test]
    fn parse_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Envelope::parse(&bytes);
    }
}
