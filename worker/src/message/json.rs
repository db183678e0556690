//! Writes JSON without silent losses. `serde_json` writes a number that is not finite as `null`, which does not read back
//! as a number; here it is an error.

use std::fmt::Display;

use serde::ser::{self, Error, Serialize, Serializer};
use serde_json::Value;

use super::kombu::{self, ResultTypes};

/// Writes a value as JSON.
///
/// # Errors
/// A number that is NaN or infinite, a map whose keys are not strings, or whatever the value's own `Serialize` refuses.
pub(crate) fn to_vec<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Vec<u8>> {
    to_vec_as(value, ResultTypes::Json)
}

/// Writes a value as JSON, optionally with some types as Python's.
///
/// # Errors
/// See [`to_vec`].
pub(crate) fn to_vec_as<T: Serialize + ?Sized>(value: &T, types: ResultTypes) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(128);
    Strict(value, types).serialize(&mut serde_json::Serializer::new(&mut out))?;
    Ok(out)
}

/// Appends a value as JSON.
///
/// # Errors
/// See [`to_vec`]; what was written before the error stays.
pub(crate) fn write<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> serde_json::Result<()> {
    Strict(value, ResultTypes::Json).serialize(&mut serde_json::Serializer::new(out))
}

/// A value as a JSON document in memory.
///
/// # Errors
/// See [`to_vec`]; also an integer beyond 64 bits.
pub(crate) fn to_value<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Value> {
    Strict(value, ResultTypes::Json).serialize(serde_json::value::Serializer)
}

/// A serializer that accepts only finite numbers, or a value to write through one. The second field is how values of known
/// types are written.
struct Strict<T>(T, ResultTypes);

impl<T: Serialize + ?Sized> Serialize for Strict<&T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.1 == ResultTypes::Kombu
            && let Some(kind) = kombu::kind_of::<T>()
        {
            return kombu::write(kind, self.0, serializer);
        }
        self.0.serialize(Strict(serializer, self.1))
    }
}

fn not_finite<E: Error>(number: impl Display) -> E {
    E::custom(format_args!("the number is {number}, which JSON cannot express"))
}

macro_rules! pass_on {
    ($($method:ident($($name:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $method(self, $($name: $type),*) -> Result<$result, S::Error> {
            self.0.$method($($name),*)
        })*
    };
}

macro_rules! pass_on_compound {
    ($($method:ident($($name:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $method(self, $($name: $type),*) -> Result<$result, S::Error> {
            let types = self.1;
            self.0.$method($($name),*).map(|inner| Strict(inner, types))
        })*
    };
}

impl<S: Serializer> Serializer for Strict<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Strict<S::SerializeSeq>;
    type SerializeTuple = Strict<S::SerializeTuple>;
    type SerializeTupleStruct = Strict<S::SerializeTupleStruct>;
    type SerializeTupleVariant = Strict<S::SerializeTupleVariant>;
    type SerializeMap = Strict<S::SerializeMap>;
    type SerializeStruct = Strict<S::SerializeStruct>;
    type SerializeStructVariant = Strict<S::SerializeStructVariant>;

    fn serialize_f32(self, number: f32) -> Result<S::Ok, S::Error> {
        if number.is_finite() { self.0.serialize_f32(number) } else { Err(not_finite(number)) }
    }

    fn serialize_f64(self, number: f64) -> Result<S::Ok, S::Error> {
        if number.is_finite() { self.0.serialize_f64(number) } else { Err(not_finite(number)) }
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.0.serialize_some(&Strict(value, self.1))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.0.serialize_newtype_struct(name, &Strict(value, self.1))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.0.serialize_newtype_variant(name, index, variant, &Strict(value, self.1))
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<S::Ok, S::Error> {
        match self.1 {
            ResultTypes::Json => self.0.serialize_bytes(value),
            ResultTypes::Kombu => kombu::write_bytes(value, self.0),
        }
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.0.collect_str(value)
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }

    pass_on! {
        serialize_bool(value: bool) -> S::Ok;
        serialize_i8(value: i8) -> S::Ok;
        serialize_i16(value: i16) -> S::Ok;
        serialize_i32(value: i32) -> S::Ok;
        serialize_i64(value: i64) -> S::Ok;
        serialize_i128(value: i128) -> S::Ok;
        serialize_u8(value: u8) -> S::Ok;
        serialize_u16(value: u16) -> S::Ok;
        serialize_u32(value: u32) -> S::Ok;
        serialize_u64(value: u64) -> S::Ok;
        serialize_u128(value: u128) -> S::Ok;
        serialize_char(value: char) -> S::Ok;
        serialize_str(value: &str) -> S::Ok;
        serialize_none() -> S::Ok;
        serialize_unit() -> S::Ok;
        serialize_unit_struct(name: &'static str) -> S::Ok;
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str) -> S::Ok;
    }

    pass_on_compound! {
        serialize_seq(length: Option<usize>) -> Self::SerializeSeq;
        serialize_tuple(length: usize) -> Self::SerializeTuple;
        serialize_tuple_struct(name: &'static str, length: usize) -> Self::SerializeTupleStruct;
        serialize_tuple_variant(
            name: &'static str, index: u32, variant: &'static str, length: usize
        ) -> Self::SerializeTupleVariant;
        serialize_map(length: Option<usize>) -> Self::SerializeMap;
        serialize_struct(name: &'static str, length: usize) -> Self::SerializeStruct;
        serialize_struct_variant(
            name: &'static str, index: u32, variant: &'static str, length: usize
        ) -> Self::SerializeStructVariant;
    }
}

macro_rules! elements {
    ($($trait:ident::$method:ident)*) => {
        $(impl<S: ser::$trait> ser::$trait for Strict<S> {
            type Ok = S::Ok;
            type Error = S::Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
                self.0.$method(&Strict(value, self.1))
            }

            fn end(self) -> Result<S::Ok, S::Error> {
                self.0.end()
            }
        })*
    };
}

elements! {
    SerializeSeq::serialize_element
    SerializeTuple::serialize_element
    SerializeTupleStruct::serialize_field
    SerializeTupleVariant::serialize_field
}

impl<S: ser::SerializeMap> ser::SerializeMap for Strict<S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        // A key is always a string.
        self.0.serialize_key(&Strict(key, ResultTypes::Json))
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        self.0.serialize_value(&Strict(value, self.1))
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.0.end()
    }
}

macro_rules! fields {
    ($($trait:ident)*) => {
        $(impl<S: ser::$trait> ser::$trait for Strict<S> {
            type Ok = S::Ok;
            type Error = S::Error;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), S::Error> {
                self.0.serialize_field(name, &Strict(value, self.1))
            }

            fn skip_field(&mut self, name: &'static str) -> Result<(), S::Error> {
                self.0.skip_field(name)
            }

            fn end(self) -> Result<S::Ok, S::Error> {
                self.0.end()
            }
        })*
    };
}

fields! { SerializeStruct SerializeStructVariant }

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use serde::Serialize;
    use serde_json::value::RawValue;

    use super::{to_value, to_vec};

    #[derive(Serialize)]
    enum Shape {
        Unit,
        New(f64),
        Tuple(f32, u8),
        Struct { x: Option<f64>, y: Vec<f32> },
    }

    #[derive(Serialize)]
    struct Deep {
        shapes: Vec<Shape>,
        by_name: BTreeMap<String, (f64, Option<Box<Deep>>)>,
        #[serde(flatten)]
        more: BTreeMap<&'static str, f32>,
    }

    fn deep(number: f64, single: f32) -> Vec<Deep> {
        let empty = || Deep { shapes: Vec::new(), by_name: BTreeMap::new(), more: BTreeMap::new() };
        vec![
            Deep { shapes: vec![Shape::Unit, Shape::New(number)], ..empty() },
            Deep { shapes: vec![Shape::Tuple(single, 1)], ..empty() },
            Deep { shapes: vec![Shape::Struct { x: Some(number), y: Vec::new() }], ..empty() },
            Deep { shapes: vec![Shape::Struct { x: None, y: vec![1.0, single] }], ..empty() },
            Deep { by_name: [("k".into(), (number, None))].into(), ..empty() },
            Deep { more: [("f", single)].into(), ..empty() },
        ]
    }

    #[test]
    fn a_number_that_is_not_finite_is_refused_wherever_it_hides() {
        for (number, said) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf"), (f64::NEG_INFINITY, "-inf")] {
            for value in deep(number, number as f32) {
                let parent = Deep {
                    shapes: Vec::new(),
                    by_name: [(String::new(), (0.0, Some(Box::new(value))))].into(),
                    more: BTreeMap::new(),
                };
                let expected = format!("the number is {said}, which JSON cannot express");
                assert_eq!(to_vec(&parent).expect_err("not finite").to_string(), expected);
                assert_eq!(to_value(&parent).expect_err("not finite").to_string(), expected);
            }
            assert!(to_vec(&Some(number)).is_err() && to_vec(&[number]).is_err() && to_vec(&number).is_err());
        }
    }

    #[test]
    fn all_else_is_written_as_serde_json_writes_it() {
        let raw = RawValue::from_string("123456789012345678901234567890.5e1".into()).expect("JSON");
        let now = chrono::DateTime::UNIX_EPOCH;
        let values = (deep(-0.0, 1.5), raw, (u128::MAX, i128::MIN, 'ü', now), "\u{1}\"", ());
        assert_eq!(to_vec(&values).expect("JSON"), serde_json::to_vec(&values).expect("JSON"));
        let keys = HashMap::from([(7_u64, bytes::Bytes::from_static(b"\xff"))]);
        assert_eq!(to_vec(&keys).expect("JSON"), br#"{"7":[255]}"#);
        assert_eq!(to_value(&keys).expect("JSON"), serde_json::json!({"7": [255]}));
        assert!(to_vec(&HashMap::from([((1, 2), 3)])).is_err_and(|error| error.to_string().contains("key")));
        assert!(to_value(&u128::MAX).is_err());
    }
}
