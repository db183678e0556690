//! How types read typed values.

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::from_str;

const NAIVE: &str = r#"{"__type__": "datetime", "__value__": "2031-01-02T03:04:05.000678"}"#;
const AWARE: &str = r#"{"__value__": "2031-01-02T05:04:05.000678+02:00", "__type__": "datetime"}"#;
const DATE: &str = r#"{"__type__":"date","__value__":"2031-01-02"}"#;
const TIME: &str = r#"{"__type__":"time","__value__":"03:04:05"}"#;
const UUID: &str = r#"{"__type__":"uuid","__value__":{"hex":"0123456789abcdef0123456789abcdef"}}"#;
const TEXT: &str = r#"{"__type__":"bytes","__value__":"gr\u00fc\u00df"}"#;
const BYTES: &str = r#"{"__type__":"base64","__value__":"/wD+"}"#;
const SPAN: &str = r#"{"__type__":"timedelta","__value__":90.5}"#;

fn decimal(text: &str) -> String {
    json!({"__type__": "decimal", "__value__": text}).to_string()
}

/// Reads the value by itself, and inside everything that can contain values.
#[track_caller]
fn reads<T: DeserializeOwned + PartialEq + Debug + Clone>(json: &str, expected: T) {
    #[derive(Debug, Deserialize, PartialEq)]
    enum Shape<T> {
        New(T),
        Pair(u8, T),
        Named { value: T },
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Wrapped<T>(T);

    #[derive(Debug, Deserialize, PartialEq)]
    struct Deep<T> {
        list: Vec<Option<T>>,
        by_number: HashMap<u32, (T, Wrapped<T>)>,
        shapes: Vec<Shape<T>>,
        missing: Option<T>,
    }

    assert_eq!(from_str::<T>(json).expect(json), expected);
    let document = format!(
        r#" {{"list": [null, {json}], "by_number": {{"7": [{json}, {json}]}},
             "shapes": [{{"New": {json}}}, {{"Pair": [1, {json}]}}, {{"Named": {{"value": {json}}}}}], "other": {json}}}"#
    );
    let read: Deep<T> = from_str(&document).unwrap_or_else(|error| panic!("{json}: {error}"));
    let same = || expected.clone();
    let deep = Deep {
        list: vec![None, Some(same())],
        by_number: [(7, (same(), Wrapped(same())))].into(),
        shapes: vec![Shape::New(same()), Shape::Pair(1, same()), Shape::Named { value: same() }],
        missing: None,
    };
    assert_eq!(read, deep);
}

#[track_caller]
fn refuses<T: DeserializeOwned + Debug>(json: &str, why: &str) {
    let error = from_str::<Vec<T>>(&format!("[{json}]")).expect_err("it does not fit").to_string();
    assert!(error.contains(why), "{error}");
}

#[test]
fn times_become_the_times_that_types_ask_for() {
    let utc: DateTime<Utc> = "2031-01-02T03:04:05.000678Z".parse().expect("a time");
    for json in [NAIVE, AWARE] {
        reads::<DateTime<Utc>>(json, utc);
        reads::<NaiveDateTime>(json, utc.naive_utc());
    }
    reads(AWARE, utc.fixed_offset());
    reads(NAIVE, String::from("2031-01-02T03:04:05.000678"));
    reads(AWARE, String::from("2031-01-02T05:04:05.000678+02:00"));
    reads(DATE, NaiveDate::from_ymd_opt(2031, 1, 2).expect("a day"));
    reads(TIME, NaiveTime::from_hms_opt(3, 4, 5).expect("a time"));
    reads(SPAN, Duration::from_millis(90_500));
    reads(SPAN, 90.5);
    refuses::<NaiveDate>(TIME, "input");
    refuses::<u64>(NAIVE, "invalid type: string");
}

#[test]
fn two_types_of_times_side_by_side_get_their_own_forms() {
    type Row = (NaiveDateTime, DateTime<Utc>, String, DateTime<Utc>, Option<NaiveDateTime>);
    let row = format!("[{NAIVE}, {NAIVE}, {NAIVE}, {AWARE}, {AWARE}]");
    let utc: DateTime<Utc> = "2031-01-02T03:04:05.000678Z".parse().expect("a time");
    let naive = utc.naive_utc();
    let rows: Vec<Row> = from_str(&format!("[{row}, {row}]")).expect("rows");
    let expected = (naive, utc, "2031-01-02T03:04:05.000678".into(), utc, Some(naive));
    assert_eq!(rows, [expected.clone(), expected]);
}

#[test]
fn decimals_become_numbers_to_the_last_digit_or_texts() {
    reads(&decimal("1.10"), 1.1);
    reads(&decimal("1.10"), String::from("1.10"));
    reads(&decimal("1.10"), json!("1.10"));
    reads(&decimal("-1E+2"), -100_i8);
    reads(&decimal("10.00"), 10_u8);
    reads(&decimal("10"), 10.0_f32);
    reads(&decimal("18446744073709551616"), u128::from(u64::MAX) + 1);
    reads(&decimal(&u128::MAX.to_string()), u128::MAX);
    reads(&decimal(&i128::MIN.to_string()), i128::MIN);
    reads(&decimal("1e30"), 1e30);
    reads(&decimal("-Infinity"), f64::NEG_INFINITY);
    assert!(from_str::<f64>(&decimal("NaN")).is_ok_and(f64::is_nan));
    refuses::<u8>(&decimal("1.5"), "invalid type: floating point");
    refuses::<u8>(&decimal("256"), "256");
    refuses::<u64>(&decimal("18446744073709551616"), "18446744073709551616");
    refuses::<i64>(&decimal("NaN"), "invalid type");
    refuses::<i64>(&decimal("sNaN"), "not a number");
}

#[test]
fn bytes_are_bytes_and_no_letters() {
    reads(BYTES, vec![0xff_u8, 0, 0xfe]);
    reads(BYTES, [0xff_u8, 0, 0xfe]);
    reads(BYTES, Bytes::from_static(b"\xff\x00\xfe"));
    reads(BYTES, json!([255, 0, 254]));
    reads(TEXT, "grüß".as_bytes().to_vec());
    reads(TEXT, Bytes::from("grüß"));
    reads(TEXT, String::from("grüß"));
    reads(TEXT, json!("grüß"));
    refuses::<String>(BYTES, "expected a string");
    refuses::<Vec<u8>>(r#"{"__type__":"base64","__value__":"%"}"#, "not base64");
    reads(UUID, String::from("01234567-89ab-cdef-0123-456789abcdef"));
    reads(UUID, json!("01234567-89ab-cdef-0123-456789abcdef"));
}

#[test]
fn types_that_are_buffered_first_are_served_as_well() {
    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(tag = "kind")]
    enum Event {
        Paid { at: DateTime<Utc>, amount: f64, receipt: Vec<u8> },
    }

    let json =
        format!(r#"{{"kind": "Paid", "at": {NAIVE}, "amount": {}, "receipt": {TEXT}}}"#, decimal("1.5"));
    let at = "2031-01-02T03:04:05.000678Z".parse().expect("a time");
    let receipt = "grüß".as_bytes().to_vec();
    assert_eq!(from_str::<Event>(&json).expect("an event"), Event::Paid { at, amount: 1.5, receipt });
}

#[test]
fn all_else_stays_as_it_is() {
    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(tag = "__type__", content = "__value__")]
    enum Own {
        #[serde(rename = "date")]
        Date(String),
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Spelled {
        __type__: String,
        __value__: String,
    }

    // A number that none of serde_json's types can hold exactly, next to a typed value.
    let big = "123456789012345678901234567890";
    assert_eq!(
        from_str::<(u128, String)>(&format!("[{big}, {DATE}]")).expect("both"),
        (big.parse().expect("a number"), "2031-01-02".into())
    );
    let raw: Box<RawValue> = from_str(&format!("{{ \"a\": {DATE} }}")).expect("JSON");
    assert_eq!(raw.get(), format!("{{ \"a\": {DATE} }}"));
    assert_eq!(from_str::<Own>(DATE).expect("a type of one's own"), Own::Date("2031-01-02".into()));
    let spelled = Spelled { __type__: "date".into(), __value__: "2031-01-02".into() };
    assert_eq!(from_str::<Spelled>(DATE).expect("a type of one's own"), spelled);
    // A typed value of kombu's has exactly these two keys, and a text for its type.
    for json in [r#"{"__type__":"x","__value__":1,"more":2}"#, r#"{"__type__":1,"__value__":2}"#] {
        assert_eq!(
            from_str::<Value>(json).expect("JSON"),
            serde_json::from_str::<Value>(json).expect("JSON")
        );
    }
    // A type that a Python program has registered.
    let point = r#"[{"__type__":"point","__value__":{"x":1,"y":{"__type__":"decimal","__value__":"2"}}}]"#;
    assert_eq!(
        from_str::<Vec<HashMap<String, u8>>>(point).expect("points"),
        [[("x".into(), 1), ("y".into(), 2)].into()]
    );
    assert_eq!(from_str::<String>(r#""a \"__type__\"""#).expect("a text"), "a \"__type__\"");
    assert!(from_str::<Value>(&format!("[{DATE}] 1")).is_err(), "more than one document");
}

#[test]
fn errors_are_about_the_value_as_it_came_and_deep_nesting_is_one() {
    let error =
        from_str::<(DateTime<Utc>, u8)>(&format!("[{NAIVE}, \"x\"]")).expect_err("no number").to_string();
    assert!(error.contains("invalid type: string \"x\""), "{error}");
    let nested = |levels: usize| format!("{}{DATE}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(from_str::<Value>(&nested(100)).is_ok());
    assert!(from_str::<Value>(&nested(200)).is_err());
    assert!(from_str::<Value>(&nested(10_000)).is_err());
}
