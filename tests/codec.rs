//! The codec with arbitrary input: encoding and decoding round-trips, and no input makes it panic.

use bytes::Bytes;
use mq_worker::backend::ResultRecord;
use mq_worker::message::{Body, Embed, Headers, Message, Properties, codec, normalize};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

/// Any JSON value, a few levels deep.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        // Floats that serde_json reads back exactly even without its `float_roundtrip` feature.
        (-1_000_000_i32..1_000_000).prop_map(|n| Value::from(f64::from(n) / 64.0)),
        ".*".prop_map(Value::from),
        Just(json!({"__type__": "made up", "more": 1})),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            btree_map(".{0,8}", inner, 0..6).prop_map(|map| map.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

fn embed() -> impl Strategy<Value = Embed> {
    let raw = |value: Value| -> Box<RawValue> { to_raw_value(&value).expect("JSON") };
    let list = move || proptest::option::of(vec(value().prop_map(raw), 0..3));
    let chord = value().prop_filter("null is none", |value| !value.is_null()).prop_map(raw);
    let chord = proptest::option::of(chord);
    (list(), list(), list(), chord).prop_map(|(callbacks, errbacks, chain, chord)| Embed {
        callbacks,
        errbacks,
        chain,
        chord,
    })
}

/// A fixed set, since parameter names are part of the program.
const NAMES: [&str; 4] = ["user", "größe", "a\"b\\", "__type__"];

fn through(body: Bytes) -> Message {
    let mut message = Message { headers: Headers::for_task("t", "id"), body, ..Message::default() };
    normalize(&mut message, usize::MAX).expect("it is our own");
    message
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn numbers_with_a_fraction_arrive_to_the_last_bit(number in proptest::num::f64::NORMAL) {
        let message = through(codec::encode(&[number]).expect("JSON"));
        let mut arguments = Body::parse(&message.body).expect("our own body").arguments;
        prop_assert_eq!(arguments.take::<f64>("number").expect("it is there"), number);
    }

    #[test]
    fn positional_arguments_are_read_as_they_were_written(args in vec(value(), 0..8)) {
        let message = through(codec::encode(&args).expect("JSON"));
        let mut arguments = Body::parse(&message.body).expect("our own body").arguments;
        for arg in &args {
            prop_assert_eq!(&arguments.take::<Value>("any").expect("it is there"), arg);
        }
        prop_assert!(arguments.finish(&vec!["any"; args.len()]).is_ok());
    }

    #[test]
    fn mixed_arguments_and_what_follows_are_read_as_they_were_written(
        args in vec(value(), 0..4),
        kwargs in vec(proptest::option::of(value()), NAMES.len()),
        embed in embed(),
    ) {
        let given: Map<String, Value> = NAMES
            .iter()
            .zip(&kwargs)
            .filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?)))
            .collect();
        let message = through(codec::encode_values(&args, &given, &embed).expect("JSON"));
        let mut body = Body::parse(&message.body).expect("our own body");
        let written = |embed: &Embed| serde_json::to_string(embed).expect("JSON");
        prop_assert_eq!(written(&body.embed), written(&embed));
        for arg in &args {
            prop_assert_eq!(&body.arguments.take::<Value>("positional").expect("it is there"), arg);
        }
        let mut parameters = vec!["positional"; args.len()];
        for (name, value) in NAMES.iter().zip(&kwargs) {
            parameters.push(name);
            let taken = body.arguments.take::<Option<Value>>(name).expect("it fits");
            prop_assert_eq!(taken, value.clone().filter(|value| !value.is_null()));
        }
        prop_assert!(body.arguments.finish(&parameters).is_ok());
    }

    #[test]
    fn too_many_arguments_and_unknown_names_are_refused(extra in 1_usize..4, name in "[a-z]{1,8}") {
        let message = through(codec::encode(&vec![1; 2 + extra]).expect("JSON"));
        let mut arguments = Body::parse(&message.body).expect("our own body").arguments;
        let _: (u8, u8) = (arguments.take("x").expect("1"), arguments.take("y").expect("1"));
        prop_assert!(arguments.finish(&["x", "y"]).is_err());
        let kwargs: Map<String, Value> = [(format!("no-{name}"), json!(1))].into_iter().collect();
        let message = through(codec::encode_values(&(), &kwargs, &Embed::default()).expect("JSON"));
        let arguments = Body::parse(&message.body).expect("our own body").arguments;
        let error = arguments.finish(&[]).expect_err("no such parameter");
        prop_assert!(error.to_string().contains(&name), "{}", error);
    }

    #[test]
    fn arbitrary_bytes_never_panic(body in vec(any::<u8>(), 0..200), headers in vec((".{0,12}", value()), 0..4)) {
        survives(&body, headers.into_iter().collect());
    }

    #[test]
    fn nearly_right_bodies_never_panic(
        body in value(), cut in 0.0..1.0_f64, flip in any::<(proptest::sample::Index, u8)>(),
    ) {
        let full = serde_json::to_vec(&json!([[body.clone()], {"k": body}, {"chain": null}])).expect("JSON");
        let mut body = full.clone();
        let at = flip.0.index(body.len());
        body[at] ^= flip.1;
        survives(&body, Headers::for_task("t", "id"));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let length = (full.len() as f64 * cut) as usize;
        survives(&full[..length], Headers::for_task("t", "id"));
        prop_assert!(Body::parse(&full[..length]).is_err(), "half a body");
    }

    #[test]
    fn corrupt_compression_never_panics(body in vec(any::<u8>(), 0..100), kind in "application/x-(gzip|bz2)|.{0,9}") {
        let mut headers = Headers::for_task("t", "id");
        headers.set("compression", kind);
        survives(&body, headers);
    }
}

/// Runs everything that is done with a received message.
fn survives(body: &[u8], headers: Headers) {
    for content_type in [None, Some("application/json"), Some("text/plain")] {
        for headers in [headers.clone(), Headers::default()] {
            let properties =
                Properties { content_type: content_type.map(Into::into), ..Properties::default() };
            let mut message = Message { properties, headers, body: body.to_vec().into() };
            if normalize(&mut message, usize::MAX).is_err() {
                continue;
            }
            let _ = (message.headers.eta(), message.headers.expires(), message.headers.time_limits());
            let _ = (message.headers.retries(), message.headers.crashes(), message.id());
            if let Ok(mut body) = Body::parse(&message.body) {
                let _ = body.arguments.take::<Value>("first");
                let _ = body.arguments.take::<Option<u64>>("second");
                let _ = body.arguments.take::<String>("k");
                let _ = body.arguments.finish(&["first", "second", "k"]);
            }
            let plain = || Body::plain(&message.body, content_type).arguments;
            let _ = (plain().take::<Value>("m"), plain().take::<String>("m"), plain().take::<Bytes>("m"));
            let _ = ResultRecord::from_json(&message.body);
        }
    }
}

#[test]
fn deep_nesting_is_refused_before_the_stack_ends() {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let deep_list = deep("[", "]");
    let deep_table = deep("{\"a\":", "}").replace(":}", ":1}");
    for nested in [deep_list, deep_table] {
        for body in [
            nested.clone(),
            format!("[[{nested}],{{}},{{}}]"),
            format!("[[],{{\"k\":{nested}}},{{}}]"),
            format!("[[],{{}},{{\"chain\":{nested}}}]"),
            format!("[[{nested},{{\"__type__\":\"x\",\"__value__\":1}}],{{}},{{}}]"),
            format!("{{\"task\":\"t\",\"id\":\"i\",\"args\":[{nested}]}}"),
        ] {
            let headers = Headers::for_task("t", "id");
            survives(body.as_bytes(), headers.clone());
            let mut message = Message { headers, body: body.into(), ..Message::default() };
            let outcome = normalize(&mut message, usize::MAX).and_then(|()| {
                let mut body = Body::parse(&message.body)?;
                let first = body.arguments.take::<Value>("k").map_err(|error| error.to_string())?;
                Ok((first, body.embed))
            });
            assert!(outcome.is_err(), "who reads this into a value has no stack left");
        }
    }
}

#[test]
fn a_value_without_a_json_form_is_an_error() {
    let map: std::collections::HashMap<(u8, u8), u8> = [((1, 2), 3)].into_iter().collect();
    let error = codec::encode(&(map,)).expect_err("keys must be texts");
    assert!(error.is_codec(), "{error:?}");
}
