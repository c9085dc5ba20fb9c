//! Metrics as an action record keeps them: `{"metrics": [Metric…]}`. JSON has no NaN and no infinity, yet a broken
//! quantization honestly measures them, so a value that is not finite is written as the string `NaN`, `inf` or
//! `-inf`.

use qpipe_sdk::Metric;
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
            "headline": metric.headline,
        })
    };
    json!({ "metrics": metrics.iter().map(one).collect::<Vec<_>>() })
}

/// Metrics of a record's JSON.
pub fn decode(value: &Value) -> Result<Vec<Metric>, MetricsError> {
    let list = value.get("metrics").and_then(Value::as_array).ok_or(MetricsError::Missing)?;
    let one = |(index, value)| decode_one(value).map_err(|source| MetricsError::Malformed { index, source });
    list.iter().enumerate().map(one).collect()
}

/// A number in JSON: a string where it is not finite.
pub(crate) fn number(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(value.to_string()) }
}

/// Non-finite numbers pass serde's `f64` only as something finite, so they are set aside and put back.
fn decode_one(value: &Value) -> Result<Metric, serde_json::Error> {
    let mut finite = value.clone();
    let mut aside = Vec::new();
    for field in ["value", "stderr", "trivial"] {
        set_aside(finite.get_mut(field), field, &mut aside);
    }
    for (at, field) in ["low", "high"].into_iter().enumerate() {
        set_aside(finite.get_mut("range").and_then(|range| range.get_mut(at)), field, &mut aside);
    }
    let mut metric: Metric = serde_json::from_value(finite)?;
    for (field, number) in aside {
        put_back(&mut metric, field, number);
    }
    Ok(metric)
}

fn set_aside(slot: Option<&mut Value>, field: &'static str, aside: &mut Vec<(&'static str, f64)>) {
    let Some(slot) = slot else { return };
    let special = slot.as_str().and_then(|text| text.parse::<f64>().ok()).filter(|n| !n.is_finite());
    if let Some(number) = special {
        aside.push((field, number));
        *slot = json!(0.0);
    }
}

fn put_back(metric: &mut Metric, field: &str, number: f64) {
    match (field, &mut metric.range) {
        ("value", _) => metric.value = number,
        ("stderr", _) => metric.stderr = Some(number),
        ("trivial", _) => metric.trivial = Some(number),
        ("low", Some(range)) => range.0 = number,
        ("high", Some(range)) => range.1 = number,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use qpipe_sdk::Better;

    use super::*;

    #[test]
    fn metrics_round_trip_including_what_json_cannot_say() {
        let plain = Metric::new("f1", 0.5, "", Better::Higher).n(7).stderr(0.1).trivial(0.25).headline();
        let broken = Metric::new("ppl", f64::INFINITY, "", Better::Lower).range(1.0, f64::INFINITY);
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
