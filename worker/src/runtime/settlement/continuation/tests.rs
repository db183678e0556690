//! Signatures as Celery writes them, and the messages that they become.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Following, after_failure, after_success};
use crate::message::{Body, Embed, Headers, Message, Properties, codec};
use crate::runtime::admission::workflow::unsupported;
use crate::task::{Context, SharedState, context};

/// Numbers that no type of `serde_json` preserves, and a typed value of kombu.
const ODD: &str = r#"18446744073709551616,1.10,{"__type__": "decimal", "__value__": "1.10"}"#;

fn parent() -> Context {
    let mut headers = Headers::for_task("first", "parent");
    headers.set("root_id", "root");
    let properties = Properties { reply_to: Some("replies".into()), ..Properties::default() };
    Context::new(context::Call {
        task: "first",
        given_id: Some("parent".into()),
        queue: "q".into(),
        exchange: String::new(),
        routing_key: "q".into(),
        redelivered: false,
        message: Message { properties, headers, ..Message::default() },
        shared: SharedState::default(),
        stopping: CancellationToken::new().into(),
        result_types: Default::default(),
    })
}

/// The continuations in a message's body.
fn embed(json: &str) -> Embed {
    Body::parse(format!("[[],{{}},{json}]").as_bytes()).expect("a body").embed
}

fn signature(options: &Value) -> String {
    json!({"task": "next", "args": [], "kwargs": {}, "options": options, "subtask_type": null, "immutable": false})
        .to_string()
}

fn sent(options: Value) -> Following {
    let embed = embed(&format!(r#"{{"chain": [{}]}}"#, signature(&options)));
    assert_eq!(unsupported(&embed), None, "{options}");
    let mut following = after_success(&embed, &parent(), b"7");
    assert_eq!(following.len(), 1);
    following.remove(0)
}

fn body(following: &Following) -> &str {
    std::str::from_utf8(&following.message.body).expect("JSON")
}

#[test]
fn arguments_and_results_go_on_digit_by_digit() {
    let step = |immutable: bool| {
        format!(
            r#"{{"task": "next", "args": [{ODD}], "kwargs": {{"k": [{ODD}]}}, "options": {{"task_id": "2"}}, "immutable": {immutable}}}"#
        )
    };
    let later = format!(r#"{{"task":"last","args":[{ODD}],"options":{{"link":[{}]}}}}"#, step(false));
    for (immutable, args) in [(false, format!("[[{ODD}],{ODD}]")), (true, format!("[{ODD}]"))] {
        let embed = embed(&format!(r#"{{"chain": [{later}, {}]}}"#, step(immutable)));
        let following = after_success(&embed, &parent(), format!("[{ODD}]").as_bytes());
        let expected = format!(r#"[{args},{{"k": [{ODD}]}},{{"chain":[{later}]}}]"#);
        assert_eq!(body(&following[0]), expected);
    }
    let none = embed(r#"{"callbacks": [{"task": "next", "args": null, "kwargs": null, "options": null}]}"#);
    assert_eq!(body(&after_success(&none, &parent(), b"{\"a\": 1}")[0]), r#"[[{"a": 1}],{},{}]"#);
    let errback = embed(r#"{"errbacks": [{"task": "next", "args": [1]}]}"#);
    assert_eq!(body(&after_failure(&errback, &parent())[0]), r#"[["parent",1],{},{}]"#);
}

#[test]
fn every_option_of_a_signature_is_in_its_message() {
    let following = sent(json!({
        "task_id": "2", "reply_to": "mine", "root_id": "other", "parent_id": "other", "group_id": "g", "group_index": 3,
        "queue": "q2", "exchange": "x", "routing_key": "k", "priority": 7, "delivery_mode": 1, "shadow": "shown",
        "ignore_result": true, "retries": 2, "replaced_task_nesting": 1, "time_limit": 30, "soft_time_limit": 20.5,
        "headers": {"note": "n", "id": "not this one", "big": 9_223_372_036_854_775_807_i64},
        "stamped_headers": ["tenant"], "tenant": ["a"], "serializer": "json", "add_to_parent": true, "countdown": null,
    }));
    let headers = json!({
        "task": "next", "id": "2", "root_id": "root", "parent_id": "parent", "group": "g", "group_index": 3,
        "shadow": "shown", "ignore_result": true, "retries": 2, "replaced_task_nesting": 1, "timelimit": [30, 20.5],
        "note": "n", "big": 9_223_372_036_854_775_807_i64, "stamped_headers": ["tenant"], "stamps": {"tenant": ["a"]},
    });
    assert_eq!(serde_json::to_value(&following.message.headers).expect("JSON"), headers);
    let properties = &following.message.properties;
    assert_eq!(
        (properties.correlation_id.as_deref(), properties.reply_to.as_deref()),
        (Some("2"), Some("mine"))
    );
    assert_eq!((properties.priority, properties.transient), (Some(7), true));
    let wanted = following.wanted();
    assert_eq!((wanted.queue, wanted.exchange, wanted.routing_key), (Some("q2"), Some("x"), Some("k")));
    assert_eq!(sent(json!({"time_limit": 5})).message.headers.get("timelimit"), Some(&json!([5, null])));
    assert!(sent(json!({"time_limit": null})).message.headers.get("timelimit").is_none());
}

#[test]
fn links_are_taken_from_a_list_or_one_signature() {
    let link = signature(&json!({"queue": "q"}));
    for options in [
        format!(r#"{{"link": {link}, "link_error": [{link}]}}"#),
        format!(r#"{{"link": [{link}], "link_error": {link}}}"#),
    ] {
        let options = serde_json::from_str(&options).expect("JSON");
        let following = sent(options);
        let Body { embed, .. } = Body::parse(&following.message.body).expect("a body");
        let texts = |list: Option<Vec<Box<serde_json::value::RawValue>>>| -> Vec<Value> {
            list.expect("a list").iter().map(|raw| serde_json::from_str(raw.get()).expect("JSON")).collect()
        };
        let expected: Vec<Value> = vec![serde_json::from_str(&link).expect("JSON")];
        assert_eq!((texts(embed.callbacks), texts(embed.errbacks)), (expected.clone(), expected));
    }
}

#[test]
fn times_are_absolute_in_the_message() {
    let begin = Utc::now();
    let within = |time: Option<DateTime<Utc>>, seconds: i64| {
        let wait = (time.expect("a time") - begin).num_milliseconds();
        assert!((seconds * 1000..seconds * 1000 + 10_000).contains(&wait), "{wait}");
    };
    for expires in [json!(60), json!(60.0)] {
        within(sent(json!({"expires": expires})).message.headers.expires().expect("a time"), 60);
    }
    within(sent(json!({"countdown": 30, "eta": "2015-12-05"})).message.headers.eta().expect("a time"), 30);
    within(sent(json!({"countdown": 30.5})).message.headers.eta().expect("a time"), 30);
    let typed = json!({"__type__": "datetime", "__value__": "2031-01-02T03:04:05"});
    let following = sent(json!({"expires": typed, "eta": typed}));
    for name in ["expires", "eta"] {
        assert_eq!(following.message.headers.get(name), Some(&json!("2031-01-02T03:04:05")));
    }
    let none = sent(json!({"countdown": 0, "expires": 1e300})).message.headers;
    assert_eq!((none.get("eta"), none.get("expires")), (None, None), "no limit is no header");
    let never = sent(json!({"countdown": 1e300})).message.headers;
    assert_eq!(never.get("eta"), Some(&json!("9999-12-31T23:59:59.999999+00:00")));
}

#[test]
fn unsupported_signatures_are_found_at_any_depth() {
    let plain = signature(&json!({}));
    let chord = signature(&json!({"chord": {"task": "body"}}));
    let group = r#"{"task": "celery.group", "subtask_type": "group", "kwargs": {"tasks": []}}"#;
    let linked = |inner: &str| format!(r#"{{"task": "next", "options": {{"link": [{inner}]}}}}"#);
    let failing = |inner: &str| format!(r#"{{"task": "next", "options": {{"link_error": {inner}}}}}"#);
    let chained = |inner: &str| format!(r#"{{"task": "next", "options": {{"chain": [{plain}, {inner}]}}}}"#);
    let deep = |times| (0..times).fold(plain.clone(), |inner, _| linked(&inner));
    for (follows, problem) in [
        (chord.clone(), "a task of a chord"),
        (linked(&chord), "a task of a chord"),
        (failing(&chained(&chord)), "a task of a chord"),
        (group.to_owned(), "a group"),
        (linked(group), "a group"),
        (chained(&linked(group)), "a group"),
        (r#"{"task": ""}"#.into(), "names no task"),
        (linked(r#"{"task": 7}"#), "cannot be read"),
        (
            signature(&json!({})).replace("[]", &format!("{}{}", "[".repeat(200), "]".repeat(200))),
            "recursion limit",
        ),
        (r#"{"task": "t", "kwargs": [1]}"#.into(), "named arguments that are not an object"),
        (signature(&json!({"expires": "soon"})), "`expires` that is not a time"),
        (signature(&json!({"eta": 60})), "`eta` that is not a time"),
        (signature(&json!({"countdown": "soon"})), "`countdown` that is not a time"),
        (signature(&json!({"headers": ["note"]})), "`headers` that are not an object"),
        (signature(&json!({"stamped_headers": "note"})), "not a list of names"),
        (
            signature(&json!({"headers": {"big": "?"}})).replace("\"?\"", "18446744073709551616"),
            "header `big`",
        ),
        (deep(20), "nested deeper"),
    ] {
        for list in ["chain", "callbacks", "errbacks"] {
            let embed = embed(&format!(r#"{{"{list}": [{plain}, {follows}, {plain}]}}"#));
            let said = unsupported(&embed).unwrap_or_else(|| panic!("not seen in {list}: {follows}"));
            assert!(said.contains(problem), "{said}");
        }
    }
    assert!(unsupported(&embed(&format!(r#"{{"chord": {plain}}}"#))).is_some());
    for fine in [
        deep(10),
        chained(&plain),
        signature(&json!({"chord": null, "link": null, "expires": 0, "headers": {"n": -1}})),
    ] {
        assert_eq!(unsupported(&embed(&format!(r#"{{"callbacks": [{fine}]}}"#))), None);
    }
    assert!(codec::encode_values(&[1], &json!([]), &Embed::default()).is_err(), "it would never be sent so");
}
