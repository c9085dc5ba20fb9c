//! Metrics as an action record keeps them: `{"metrics": [Metric…]}`. JSON has no NaN and no infinity, yet a broken
//! quantization honestly measures them, so a value that is not finite is written as the string `NaN`, `inf` or
//! `-inf`.

use std::fmt;

use qpipe_sdk::protocol::wire::WirePaired;
use qpipe_sdk::{Better, Metric, Paired};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

/// Why a record's metrics cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error("it has no list `metrics`")]
    Missing,
    #[error("its metric {index} is malformed: {source}")]
    Malformed { index: usize, source: serde_json::Error },
}

/// Metrics as a record's JSON.
pub fn encode(metrics: &[Metric]) -> Value {
    let one = |metric: &Metric| {
        json!({
            "name": metric.name,
            "value": number(metric.value),
            "unit": metric.unit,
            "better": metric.better,
            "n": metric.n,
            "stderr": metric.stderr.map(number),
            "range": metric.range.map(|(low, high)| [number(low), number(high)]),
            "trivial": metric.trivial.map(number),
            "paired": metric.paired.as_ref().map(WirePaired::from),
            "headline": metric.headline,
        })
    };
    json!({ "metrics": metrics.iter().map(one).collect::<Vec<_>>() })
}

/// Metrics of a record's JSON.
pub fn decode(value: &Value) -> Result<Vec<Metric>, MetricsError> {
    let list = value.get("metrics").and_then(Value::as_array).ok_or(MetricsError::Missing)?;
    let one = |(index, value)| {
        let stored = Stored::deserialize(value);
        stored.map(Metric::from).map_err(|source| MetricsError::Malformed { index, source })
    };
    list.iter().enumerate().map(one).collect()
}

/// A number in JSON: a string where it is not finite.
pub(crate) fn number(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(value.to_string()) }
}

/// A number that is written and read as [`number`] says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number(pub(crate) f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() { to.serialize_f64(self.0) } else { to.collect_str(&self.0) }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, or `NaN`, `inf` or `-inf`")
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Number, E> {
        Ok(Number(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Number, E> {
        Ok(Number(value as f64))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Number, E> {
        Ok(Number(value as f64))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
        let special = text.parse().ok().filter(|number: &f64| !number.is_finite());
        special.map(Number).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

/// A metric as it is written.
#[derive(Deserialize)]
struct Stored {
    name: String,
    value: Number,
    unit: String,
    better: Better,
    #[serde(default)]
    n: Option<u64>,
    #[serde(default)]
    stderr: Option<Number>,
    #[serde(default)]
    range: Option<(Number, Number)>,
    #[serde(default)]
    trivial: Option<Number>,
    #[serde(default)]
    paired: Option<WirePaired>,
    #[serde(default)]
    headline: bool,
}

impl From<Stored> for Metric {
    fn from(stored: Stored) -> Self {
        let Stored { name, value, unit, better, n, stderr, range, trivial, paired, headline } = stored;
        Self {
            name,
            value: value.0,
            unit,
            better,
            n,
            stderr: stderr.map(|n| n.0),
            range: range.map(|(low, high)| (low.0, high.0)),
            trivial: trivial.map(|n| n.0),
            paired: paired.map(Paired::from),
            headline,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_round_trip_including_what_json_cannot_say() {
        let plain = Metric::new("f1", 0.5, "", Better::Higher).n(7).stderr(0.1).trivial(0.25).headline();
        let broken = Metric::new("ppl", f64::INFINITY, "", Better::Lower).range(1.0, f64::INFINITY);
        let paired =
            Paired { port: "against".into(), low: f64::NEG_INFINITY, p: Some(0.25), ..Paired::default() };
        let broken = broken.paired(Some(Paired { wrong_to_right: Some(3), ..paired }));
        let text = encode(&[plain.clone(), broken.clone()]).to_string();
        let back = decode(&serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(back, [plain, broken]);
        let nan = decode(&encode(&[Metric::new("kl", f64::NAN, "nat", Better::Lower)])).unwrap();
        assert!(nan[0].value.is_nan());
    }

    #[test]
    fn what_is_not_metrics_is_refused_by_name() {
        assert!(matches!(decode(&json!({})), Err(MetricsError::Missing)));
        let bad = decode(&json!({ "metrics": [{ "name": "f1", "value": "much" }] }));
        assert!(matches!(bad, Err(MetricsError::Malformed { index: 0, .. })));
    }
}
