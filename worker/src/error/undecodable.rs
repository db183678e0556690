//! Why a value could not be decoded, without the value.

use std::error::Error as StdError;
use std::fmt;

/// Why JSON could not be read into a type, without its values: they may be secrets, and the text is written into logs,
/// dead letters and results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Undecodable(String);

/// The kinds of values that serde names.
const KINDS: [&str; 18] = [
    "boolean",
    "integer",
    "floating point",
    "number",
    "character",
    "string",
    "byte array",
    "unit value",
    "null",
    "Option value",
    "newtype struct",
    "sequence",
    "map",
    "enum",
    "unit variant",
    "newtype variant",
    "tuple variant",
    "struct variant",
];

impl From<&serde_json::Error> for Undecodable {
    fn from(error: &serde_json::Error) -> Self {
        let text = error.to_string();
        let place = match error.line() {
            0 => String::new(),
            line => format!(" at line {line} column {}", error.column()),
        };
        let text = text.strip_suffix(&place).unwrap_or(&text);
        // The parser's messages about syntax quote no input; those about data come from types and may.
        let text = if error.is_data() { without_values(text) } else { text.to_owned() };
        Self(text + &place)
    }
}

/// serde's message about a value that does not fit, without the value. A custom message of a type may quote anything,
/// so it is dropped.
pub(crate) fn without_values(text: &str) -> String {
    // These hold only names of the type's own fields, and numbers.
    if ["missing field `", "duplicate field `", "invalid length "].iter().any(|known| text.starts_with(known))
    {
        return text.to_owned();
    }
    // Quoted input comes before it, so the last occurrence is serde's.
    let expected = text.rfind(", expected ").or_else(|| text.rfind(", there are no "));
    let expected = expected.map_or("", |at| &text[at..]);
    for what in ["invalid type", "invalid value"] {
        let value = text.strip_prefix(what).and_then(|rest| rest.strip_prefix(": "));
        if let Some(value) = value {
            let kind = KINDS.iter().find(|kind| {
                let rest = value.strip_prefix(**kind);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', ',']))
            });
            return format!("{what}: {}{expected}", kind.unwrap_or(&"another value"));
        }
    }
    for what in ["unknown variant", "unknown field"] {
        if text.starts_with(what) {
            return format!("{what}{expected}");
        }
    }
    "the value is not valid for this type".into()
}

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Undecodable {}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Card {
        number: u64,
        kind: Kind,
        #[serde(default)]
        tag: Option<Tag>,
        #[serde(default)]
        small: u8,
    }

    #[derive(Debug, Deserialize)]
    enum Kind {
        Debit,
        Credit,
    }

    #[derive(Debug, Deserialize)]
    enum Never {}

    #[derive(Debug, Deserialize)]
    #[serde(try_from = "String")]
    struct Tag;

    impl TryFrom<String> for Tag {
        type Error = String;

        fn try_from(text: String) -> Result<Self, String> {
            Err(format!("no such tag: {text}"))
        }
    }

    #[test]
    fn what_does_not_fit_is_told_without_the_value() {
        let shown = |json: &str| {
            let error = serde_json::from_str::<Card>(json).expect_err(json);
            Undecodable::from(&error).to_string()
        };
        for (json, expected) in [
            (r#"{"number": "hunter2"}"#, "invalid type: string, expected u64 at line 1 column 20"),
            (
                r#"{"number": "hunter2, expected hunter2"}"#,
                "invalid type: string, expected u64 at line 1 column 38",
            ),
            (r#"{"number": -4711}"#, "invalid value: integer, expected u64 at line 1 column 16"),
            (r#"{"number": 47.11}"#, "invalid type: floating point, expected u64 at line 1 column 16"),
            (r#"{"number": true}"#, "invalid type: boolean, expected u64 at line 1 column 15"),
            (r#"{"number": ["hunter2"]}"#, "invalid type: sequence, expected u64 at line 1 column 11"),
            (r#"{"small": 4711}"#, "invalid value: integer, expected u8 at line 1 column 14"),
            (r#"{"kind": "hunter2`"}"#, "unknown variant, expected `Debit` or `Credit` at line 1 column 19"),
            (
                r#"{"hunter2": 1}"#,
                "unknown field, expected one of `number`, `kind`, `tag`, `small` at line 1 column 10",
            ),
            (r#"{"tag": "hunter2"}"#, "the value is not valid for this type at line 1 column 18"),
            (r#"{"number": 1}"#, "missing field `kind` at line 1 column 13"),
            (r#"{"number": 1, "number": 2}"#, "duplicate field `number` at line 1 column 22"),
            (r#"{"number": hunter2}"#, "expected value at line 1 column 12"),
            ("[]", "invalid length 0, expected struct Card with 4 elements at line 1 column 2"),
        ] {
            assert_eq!(shown(json), expected, "{json}");
        }
        let error = serde_json::from_value::<Never>("hunter2".into()).expect_err("no variants");
        assert_eq!(Undecodable::from(&error).to_string(), "unknown variant, there are no variants");
    }
}
