//! Metrics as JSON: as an action record keeps them, `{"metrics": [Metric…]}`, and as an artifact of the kind `metrics`, which
//! has the stage type that told them beside them. JSON has no NaN and no infinity, yet a broken quantization honestly
//! measures them, so a value that is not finite is written as the string `NaN`, `inf` or `-inf`.
//!
//! The artifact has content only, no times and no names of a study: equal numbers are equal bytes.

use qpipe_cache::{Store, StoreError};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::StageError;
use crate::metric::Metric;
use crate::protocol::wire::{Number, WireMetric, WirePaired};
use crate::spec::ArtifactKind;
use crate::stage::Artifact;

/// The artifact's format and version.
pub const FORMAT: &str = "qpipe.metrics/1";

/// Why metrics cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error("it is no JSON: {0}")]
    Json(serde_json::Error),
    #[error("its format is not `{FORMAT}`")]
    Format,
    #[error("it has no list `metrics`")]
    Missing,
    #[error("its metric {index} is malformed: {source}")]
    Malformed { index: usize, source: serde_json::Error },
}

/// Metrics as a record's JSON.
pub fn encode(metrics: &[Metric]) -> Value {
    let number = |value: f64| json!(Number(value));
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
        let stored = WireMetric::deserialize(value);
        stored.map(Metric::from).map_err(|source| MetricsError::Malformed { index, source })
    };
    list.iter().enumerate().map(one).collect()
}

/// The artifact's bytes, of a stage type and the metrics of its record.
pub fn document(stage: &str, recorded: &Value) -> Vec<u8> {
    json!({ "format": FORMAT, "stage": stage, "metrics": recorded["metrics"] }).to_string().into_bytes()
}

/// Stores the artifact of what a stage type has told.
///
/// # Errors
/// Those of writing to the store.
pub fn keep(store: &Store, stage: &str, metrics: &[Metric]) -> Result<Artifact, StoreError> {
    let digest = store.put_bytes(&document(stage, &encode(metrics)))?;
    Ok(Artifact::single(ArtifactKind::METRICS, digest))
}

/// What a stage of a study has told, as another stage reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The stage type.
    pub stage: String,
    /// In the order in which it told them.
    pub metrics: Vec<Metric>,
}

impl Measured {
    /// Reads an artifact's bytes.
    ///
    /// # Errors
    /// What they lack.
    pub fn read(bytes: &[u8]) -> Result<Self, MetricsError> {
        let document: Value = serde_json::from_slice(bytes).map_err(MetricsError::Json)?;
        let text = |name: &str| document.get(name).and_then(Value::as_str);
        let stage = text("stage").filter(|_| text("format") == Some(FORMAT)).ok_or(MetricsError::Format)?;
        Ok(Self { stage: stage.to_owned(), metrics: decode(&document)? })
    }

    /// The metric of a name; of several the last.
    ///
    /// # Errors
    /// One that names those that are there: a study has connected a stage that tells others.
    pub fn metric(&self, name: &str) -> Result<&Metric, StageError> {
        self.metrics.iter().rfind(|metric| metric.name == name).ok_or_else(|| {
            let known: Vec<String> = self.metrics.iter().map(|metric| format!("`{}`", metric.name)).collect();
            let known =
                if known.is_empty() { "none".to_owned() } else { format!("only {}", known.join(", ")) };
            StageError::Config(format!("`{}` tells no metric `{name}`, {known}", self.stage))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::{Better, Paired};

    fn some() -> [Metric; 3] {
        let plain = Metric::new("f1", 0.5, "", Better::Higher).n(7).stderr(0.1).trivial(0.25).headline();
        let broken = Metric::new("ppl", f64::INFINITY, "", Better::Lower).range(1.0, f64::INFINITY);
        let paired =
            Paired { port: "against".into(), low: f64::NEG_INFINITY, p: Some(0.25), ..Paired::default() };
        let broken = broken.paired(Some(Paired { wrong_to_right: Some(3), ..paired }));
        [plain, broken, Metric::new("zero", -0.0, "s", Better::Neither)]
    }

    #[test]
    fn metrics_round_trip_including_what_json_cannot_say() {
        let text = encode(&some()).to_string();
        let back = decode(&serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(back, some());
        let nan = decode(&encode(&[Metric::new("kl", f64::NAN, "nat", Better::Lower)])).unwrap();
        assert!(nan[0].value.is_nan());
    }

    #[test]
    fn an_artifact_is_the_same_of_a_record_that_was_read_back() {
        let recorded = encode(&some());
        let back: Value = serde_json::from_str(&recorded.to_string()).unwrap();
        assert_eq!(document("evaluate", &back), document("evaluate", &recorded));
        let read = Measured::read(&document("evaluate", &back)).unwrap();
        assert_eq!((read.stage.as_str(), read.metrics.as_slice()), ("evaluate", some().as_slice()));
        assert_eq!(read.metric("f1").unwrap().n, Some(7));
        let missing = read.metric("f2").unwrap_err().to_string();
        assert!(missing.ends_with("`evaluate` tells no metric `f2`, only `f1`, `ppl`, `zero`"), "{missing}");
    }

    #[test]
    fn what_is_not_metrics_is_refused_by_name() {
        assert!(matches!(decode(&json!({})), Err(MetricsError::Missing)));
        let bad = decode(&json!({ "metrics": [{ "name": "f1", "value": "much" }] }));
        assert!(matches!(bad, Err(MetricsError::Malformed { index: 0, .. })));
        assert!(matches!(Measured::read(b"words"), Err(MetricsError::Json(_))));
        assert!(matches!(Measured::read(br#"{"stage":"a","metrics":[]}"#), Err(MetricsError::Format)));
    }
}
