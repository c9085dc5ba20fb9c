//! Values inside a key document, and their three forms.
//!
//! | value          | JSON                          | for a person |
//! |----------------|-------------------------------|--------------|
//! | `Bool(true)`   | `true`                        | `true`       |
//! | `Int(64)`      | `64`                          | `64`         |
//! | `Float(1.0)`   | `{"float": 1.0}`              | `1.0`        |
//! | `Float(NaN)`   | `{"float": "nan"}`            | `NaN`        |
//! | `Text("nf4")`  | `"nf4"`                       | `nf4`        |
//! | `Digest(d)`    | `{"digest": "<64 hex>"}`      | 12 hex       |
//! | `List([1, 8])` | `[1, 8]`                      | `[1, 8]`     |
//! | `Map({a: 1})`  | `{"map": {"a": 1}}`           | `{a: 1}`     |
//!
//! The JSON form is unambiguous: an object is always one of the three tagged forms, and a bare number is always
//! an integer. The third form, the bytes that are hashed, is in [`crate::key`].

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;

/// One typed value of a key document.
///
/// Two values are equal exactly when they encode to the same bytes: `0.0` equals `-0.0`, and NaN equals NaN.
#[derive(Clone, Debug)]
pub enum KeyValue {
    /// A truth value.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A number; never equal to an integer, not even to one of the same value.
    Float(f64),
    /// A text, compared byte by byte (no Unicode normalization).
    Text(String),
    /// A content digest; never equal to its own hex text.
    Digest(Digest),
    /// Values in an order that matters.
    List(Vec<KeyValue>),
    /// Named values in no order.
    Map(BTreeMap<String, KeyValue>),
}

impl PartialEq for KeyValue {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => float_bits(*a) == float_bits(*b),
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Digest(a), Self::Digest(b)) => a == b,
            (Self::List(a), Self::List(b)) => a == b,
            (Self::Map(a), Self::Map(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for KeyValue {}

/// The bits by which a number is compared and hashed: one zero, one NaN.
pub(crate) fn float_bits(number: f64) -> u64 {
    if number.is_nan() {
        0x7ff8_0000_0000_0000
    } else if number == 0.0 {
        0
    } else {
        number.to_bits()
    }
}

impl fmt::Display for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(truth) => write!(f, "{truth}"),
            Self::Int(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number:?}"),
            Self::Text(text) => f.write_str(text),
            Self::Digest(digest) => f.write_str(&digest.short()),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Self::Map(entries) => {
                let entries: Vec<String> = entries.iter().map(|(k, v)| format!("{k}: {v}")).collect();
                write!(f, "{{{}}}", entries.join(", "))
            }
        }
    }
}

macro_rules! from_integers {
    ($($integer:ty),*) => {$(
        impl From<$integer> for KeyValue {
            fn from(number: $integer) -> Self {
                Self::Int(i64::from(number))
            }
        }
    )*};
}

from_integers!(i8, i16, i32, i64, u8, u16, u32);

impl From<bool> for KeyValue {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

impl From<u64> for KeyValue {
    /// Numbers above `i64::MAX` (seeds) keep their decimal text, so that no two numbers ever meet.
    fn from(number: u64) -> Self {
        i64::try_from(number).map_or_else(|_| Self::Text(number.to_string()), Self::Int)
    }
}

impl From<usize> for KeyValue {
    fn from(number: usize) -> Self {
        Self::from(number as u64)
    }
}

impl From<f64> for KeyValue {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

impl From<&str> for KeyValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for KeyValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Digest> for KeyValue {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

impl<T: Into<KeyValue>> From<Vec<T>> for KeyValue {
    fn from(items: Vec<T>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

impl From<BTreeMap<String, KeyValue>> for KeyValue {
    fn from(entries: BTreeMap<String, KeyValue>) -> Self {
        Self::Map(entries)
    }
}

impl Serialize for KeyValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(truth) => serializer.serialize_bool(*truth),
            Self::Int(number) => serializer.serialize_i64(*number),
            Self::Float(number) => tagged(serializer, "float", &FloatJson::of(*number)),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Digest(digest) => tagged(serializer, "digest", digest),
            Self::List(items) => items.serialize(serializer),
            Self::Map(entries) => tagged(serializer, "map", entries),
        }
    }
}

fn tagged<S: Serializer>(serializer: S, tag: &str, value: &impl Serialize) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry(tag, value)?;
    map.end()
}

/// A number in JSON, which has no word for those that are not finite.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum FloatJson {
    Finite(f64),
    Other(NonFinite),
}

#[derive(Serialize, Deserialize)]
enum NonFinite {
    #[serde(rename = "nan")]
    NotANumber,
    #[serde(rename = "inf")]
    Infinity,
    #[serde(rename = "-inf")]
    NegativeInfinity,
}

impl FloatJson {
    fn of(number: f64) -> Self {
        match number {
            finite if finite.is_finite() => Self::Finite(finite),
            nan if nan.is_nan() => Self::Other(NonFinite::NotANumber),
            f64::INFINITY => Self::Other(NonFinite::Infinity),
            _ => Self::Other(NonFinite::NegativeInfinity),
        }
    }

    fn number(&self) -> f64 {
        match self {
            Self::Finite(number) => *number,
            Self::Other(NonFinite::NotANumber) => f64::NAN,
            Self::Other(NonFinite::Infinity) => f64::INFINITY,
            Self::Other(NonFinite::NegativeInfinity) => f64::NEG_INFINITY,
        }
    }
}

impl<'de> Deserialize<'de> for KeyValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = KeyValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a boolean, an integer, a text, a list, or one of `float`, `digest`, `map` in an object")
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<KeyValue, E> {
        Ok(KeyValue::Bool(truth))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<KeyValue, E> {
        Ok(KeyValue::Int(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<KeyValue, E> {
        i64::try_from(number)
            .map(KeyValue::Int)
            .map_err(|_| E::custom(format!("integer `{number}` is too large")))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<KeyValue, E> {
        Ok(KeyValue::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<KeyValue, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(KeyValue::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<KeyValue, A::Error> {
        const TAGS: &[&str] = &["float", "digest", "map"];
        let tag: String = object.next_key()?.ok_or_else(|| A::Error::custom("an object without a tag"))?;
        let value = match tag.as_str() {
            "float" => KeyValue::Float(object.next_value::<FloatJson>()?.number()),
            "digest" => KeyValue::Digest(object.next_value()?),
            "map" => KeyValue::Map(object.next_value()?),
            other => return Err(A::Error::unknown_field(other, TAGS)),
        };
        match object.next_key::<String>()? {
            Some(extra) => Err(A::Error::custom(format!("unexpected `{extra}` beside `{tag}`"))),
            None => Ok(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: &KeyValue) -> String {
        serde_json::to_string(value).unwrap()
    }

    #[test]
    fn json_is_readable_and_unambiguous() {
        let digest = Digest::of_bytes(b"");
        let hex = digest.to_string();
        assert_eq!(json(&digest.into()), format!("{{\"digest\":\"{hex}\"}}"));
        assert_eq!(json(&hex.as_str().into()), format!("\"{hex}\""));
        assert_eq!(json(&1.0.into()), "{\"float\":1.0}");
        assert_eq!(json(&1_i64.into()), "1");
        assert_eq!(json(&f64::NEG_INFINITY.into()), "{\"float\":\"-inf\"}");
        assert_eq!(
            json(&BTreeMap::from([("float".to_owned(), 1_i64.into())]).into()),
            "{\"map\":{\"float\":1}}"
        );
    }

    #[test]
    fn json_round_trips_each_kind() {
        let digest = Digest::of_bytes(b"x");
        let all: Vec<KeyValue> = vec![
            true.into(),
            i64::MIN.into(),
            i64::MAX.into(),
            (-0.0).into(),
            f64::NAN.into(),
            f64::INFINITY.into(),
            0.1.into(),
            5e-324.into(),
            1e300.into(),
            "nf4".into(),
            digest.into(),
            vec![1, 8].into(),
            BTreeMap::from([("digest".to_owned(), digest.to_string().into())]).into(),
        ];
        for value in all {
            let back: KeyValue = serde_json::from_str(&json(&value)).unwrap();
            assert_eq!(back, value, "{}", json(&value));
        }
    }

    #[test]
    fn other_json_is_refused() {
        for text in [
            "1.5",
            "null",
            "{}",
            "{\"int\":1}",
            "{\"float\":1.0,\"map\":{}}",
            "{\"digest\":\"ab\"}",
            "9999999999999999999",
        ] {
            assert!(serde_json::from_str::<KeyValue>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_person_reads_plain_values() {
        assert_eq!(KeyValue::from("nf4").to_string(), "nf4");
        assert_eq!(KeyValue::from(64).to_string(), "64");
        assert_eq!(KeyValue::from(1.0).to_string(), "1.0");
        assert_eq!(KeyValue::from(true).to_string(), "true");
        assert_eq!(KeyValue::from(vec![1, 8]).to_string(), "[1, 8]");
        assert_eq!(KeyValue::from(Digest::of_bytes(b"")).to_string(), "af1349b9f5f9");
    }

    #[test]
    fn equality_is_equality_of_encodings() {
        assert_eq!(KeyValue::from(0.0), KeyValue::from(-0.0));
        assert_eq!(KeyValue::from(f64::NAN), KeyValue::from(-f64::NAN));
        assert_ne!(KeyValue::from(1.0), KeyValue::from(1));
        assert_ne!(KeyValue::from(u64::MAX), KeyValue::from(u64::MAX - 1));
    }
}
