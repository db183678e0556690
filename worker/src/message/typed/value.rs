//! One typed value, in the forms that types ask for.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::value::SeqDeserializer;
use serde::de::{Deserializer, Error as _, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::value::RawValue;
use serde_json::{Error, Result};

use super::Forms;
use crate::message::iso8601;

/// How a typed value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Written {
    /// A datetime without an offset.
    Naive,
    /// A datetime with one.
    Aware,
    Decimal,
    /// A date, a time, a UUID.
    Text,
    /// Bytes that are a text.
    Utf8,
    /// Other bytes.
    Base64,
}

/// A value in one of the forms that types ask for.
enum Form<'de> {
    Text(Cow<'de, str>),
    Number(Cow<'de, str>),
    /// One number per byte, as serde_json writes bytes.
    Numbers(Vec<u8>),
}

/// A value of one of kombu's own types.
pub(super) struct Typed<'de, 'f> {
    pub(super) written: Written,
    pub(super) text: Cow<'de, str>,
    pub(super) forms: &'f Forms,
}

impl<'de> Typed<'de, '_> {
    fn bytes(&self) -> Result<Option<Vec<u8>>> {
        match self.written {
            Written::Utf8 => Ok(Some(self.text.as_bytes().to_vec())),
            Written::Base64 => {
                let bytes = STANDARD.decode(self.text.as_bytes());
                bytes.map(Some).map_err(|_| Error::custom("bytes that are not base64"))
            }
            _ => Ok(None),
        }
    }

    /// The forms in which it can be read, the most faithful one first.
    fn in_forms(&self) -> Result<Vec<Form<'de>>> {
        let text = || Form::Text(self.text.clone());
        Ok(match self.written {
            Written::Text => vec![text()],
            Written::Naive => vec![text(), Form::Text(format!("{}Z", self.text).into())],
            Written::Aware => {
                let utc = iso8601::parse_time(&self.text);
                let utc = utc.map(|time| Form::Text(format!("{:?}", time.naive_utc()).into()));
                std::iter::once(text()).chain(utc).collect()
            }
            Written::Decimal => vec![text(), Form::Number(self.text.clone())],
            Written::Utf8 => vec![text(), Form::Numbers(self.text.as_bytes().to_vec())],
            Written::Base64 => self.bytes()?.map(Form::Numbers).into_iter().collect(),
        })
    }

    fn number<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.written {
            Written::Decimal => number(&self.text, visitor),
            _ => self.deserialize_any(visitor),
        }
    }

    fn float<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.text.parse() {
            Ok(number) if self.written == Written::Decimal => visitor.visit_f64(number),
            _ => self.deserialize_any(visitor),
        }
    }

    fn numbers<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.bytes()? {
            Some(bytes) => visitor.visit_seq(SeqDeserializer::new(bytes.into_iter())),
            None => self.deserialize_any(visitor),
        }
    }
}

macro_rules! ask_for {
    ($form:ident: $($method:ident($($name:ident: $type:ty),*))*) => {
        $(fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value> {
            self.$form(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Typed<'de, '_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let mut forms = self.in_forms()?;
        let (count, form) = (forms.len(), self.forms.chosen::<V>(self.written).min(forms.len() - 1));
        let done = match forms.swap_remove(form) {
            Form::Text(Cow::Borrowed(text)) => visitor.visit_borrowed_str(text),
            Form::Text(Cow::Owned(text)) => visitor.visit_string(text),
            Form::Number(text) => number(&text, visitor),
            Form::Numbers(bytes) => visitor.visit_seq(SeqDeserializer::new(bytes.into_iter())),
        };
        done.inspect_err(|_| self.forms.refuse::<V>(self.written, form, count))
    }

    ask_for! { number:
        deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64() deserialize_i128()
        deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64() deserialize_u128()
    }

    ask_for! { float: deserialize_f32() deserialize_f64() }

    ask_for! { numbers:
        deserialize_seq() deserialize_tuple(_length: usize)
        deserialize_tuple_struct(_name: &'static str, _length: usize)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_byte_buf(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.bytes()? {
            Some(bytes) => visitor.visit_byte_buf(bytes),
            None => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool char str string option unit unit_struct newtype_struct map struct enum identifier ignored_any
    }
}

/// The value of one of kombu's own types, as a text.
pub(super) fn written<'de>(kind: &str, value: &'de RawValue) -> Option<(Written, Cow<'de, str>)> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    #[derive(Deserialize)]
    struct Hex {
        hex: String,
    }

    if kind == "uuid" {
        let Hex { hex } = serde_json::from_str(value.get()).ok()?;
        let text = uuid::Uuid::try_parse(&hex).map_or(hex, |id| id.to_string());
        return Some((Written::Text, text.into()));
    }
    let Text(text) = serde_json::from_str(value.get()).ok()?;
    let written = match kind {
        "datetime" if iso8601::local(&text).is_some_and(|(_, offset)| offset.is_none()) => Written::Naive,
        "datetime" => Written::Aware,
        "date" | "time" => Written::Text,
        "decimal" => Written::Decimal,
        "bytes" => Written::Utf8,
        "base64" => Written::Base64,
        _ => return None,
    };
    Some((written, text))
}

/// Passes a decimal to the visitor as a number.
fn number<'de, V: Visitor<'de>>(text: &str, visitor: V) -> Result<V::Value> {
    if let Some(integer) = integer(text) {
        return match (u64::try_from(integer), i64::try_from(integer)) {
            (Ok(integer), _) => visitor.visit_u64(integer),
            (_, Ok(integer)) => visitor.visit_i64(integer),
            _ => match u128::try_from(integer) {
                Ok(integer) => visitor.visit_u128(integer),
                Err(_) => visitor.visit_i128(integer),
            },
        };
    }
    if let Ok(integer) = text.parse() {
        return visitor.visit_u128(integer);
    }
    match text.parse() {
        Ok(number) => visitor.visit_f64(number),
        Err(_) => Err(Error::custom("a decimal that is not a number")),
    }
}

/// The value of a decimal that is an integer, such as `10`, `10.00` and `1E+1`.
fn integer(text: &str) -> Option<i128> {
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let number: i128 = format!("{whole}{fraction}").parse().ok()?;
    if number == 0 {
        return Some(0);
    }
    let exponent = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
    match exponent {
        0.. => number.checked_mul(power),
        _ => (number % power == 0).then(|| number / power),
    }
}
