//! Parameters and numbers as JSON. A parameter's JSON says no type (`64`, `"nf4"`, `[1, 8]`): the receiver knows it
//! from the stage's schema. JSON has no NaN and no infinity, so a number that is not finite is the string `NaN`, `inf`
//! or `-inf`.

use std::collections::BTreeMap;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;

use crate::metric::{Better, Metric, Paired};
use crate::schema::{ParamType, Schema};
use crate::value::{Params, Value};

/// Parameters by dotted path.
pub type WireParams = BTreeMap<String, Json>;

/// Why JSON is no value of a parameter.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("there is no parameter `{path}`")]
    Unknown { path: String },
    #[error("`{path}` takes {expected}, not `{found}`")]
    Type { path: String, expected: String, found: String },
    #[error("the path `{path}` is not UTF-8")]
    NotUtf8 { path: String },
}

/// Parameters as JSON.
pub fn params_to_json(params: &Params) -> Result<WireParams, WireError> {
    params.0.iter().map(|(path, value)| Ok((path.clone(), to_json(value)?))).collect()
}

/// Parameters of a schema from their JSON. A choice's presence (`task.boolq`) is a boolean.
pub fn params_from_json(schema: &Schema, params: &WireParams) -> Result<Params, WireError> {
    let one = |(path, json): (&String, &Json)| {
        let unknown = || WireError::Unknown { path: path.clone() };
        let presence = schema.is_presence(path).then_some(&ParamType::Bool);
        let ty = schema.param(path).map(|spec| &spec.ty).or(presence).ok_or_else(unknown)?;
        Ok((path.clone(), value(path, ty, json)?))
    };
    params.iter().map(one).collect::<Result<_, _>>().map(Params)
}

fn to_json(value: &Value) -> Result<Json, WireError> {
    Ok(match value {
        Value::Bool(flag) => Json::from(*flag),
        Value::Int(integer) => Json::from(*integer),
        Value::Float(number) => Json::from(*number),
        Value::Text(text) => Json::from(text.as_str()),
        Value::File(path) => {
            let not_utf8 = || WireError::NotUtf8 { path: path.display().to_string() };
            Json::from(path.to_str().ok_or_else(not_utf8)?)
        }
        Value::List(items) => Json::Array(items.iter().map(to_json).collect::<Result<_, _>>()?),
    })
}

/// The value of type `ty` that a parameter's JSON stands for.
pub(crate) fn value(path: &str, ty: &ParamType, json: &Json) -> Result<Value, WireError> {
    let misfit = || WireError::Type {
        path: path.to_owned(),
        expected: ty.describe(),
        found: json.to_string().chars().take(80).collect(),
    };
    let typed = match (ty, json) {
        (ParamType::List(of), Json::Array(items)) => {
            let items = items.iter().map(|item| value(path, of, item)).collect::<Result<_, _>>()?;
            return Ok(Value::List(items));
        }
        (ParamType::Bool, Json::Bool(flag)) => Some(Value::Bool(*flag)),
        (ParamType::Int { min, max }, Json::Number(number)) => {
            number.as_i64().filter(|n| (min..=max).contains(&n)).map(Value::Int)
        }
        (ParamType::Float { min, max }, Json::Number(number)) => {
            number.as_f64().filter(|n| (min..=max).contains(&n)).map(Value::Float)
        }
        (ParamType::Text, Json::String(text)) => Some(Value::Text(text.clone())),
        (ParamType::Choice(words), Json::String(text)) if words.contains(&text.as_str()) => {
            Some(Value::Text(text.clone()))
        }
        (ParamType::FileOr(words), Json::String(text)) if ParamType::is_word(words, text) => {
            Some(Value::Text(text.clone()))
        }
        (ParamType::File | ParamType::FileOr(_), Json::String(path)) => Some(Value::File(path.into())),
        _ => None,
    };
    typed.ok_or_else(misfit)
}

/// A number, or the name of one that is not finite.
#[derive(Clone, Copy, Debug)]
pub struct Number(pub f64);

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 || self.0.is_nan() && other.0.is_nan()
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() { serializer.serialize_f64(self.0) } else { serializer.collect_str(&self.0) }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Json::deserialize(deserializer)? {
            Json::Number(number) => number.as_f64().map(Self).ok_or_else(|| D::Error::custom("too large")),
            Json::String(text) if ["NaN", "inf", "-inf"].contains(&text.as_str()) => {
                text.parse().map(Self).map_err(D::Error::custom)
            }
            other => Err(D::Error::custom(format!("`{other}` is no number"))),
        }
    }
}

/// A metric in a message. Only its name and its value are needed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WireMetric {
    pub name: String,
    pub value: Number,
    #[serde(default)]
    pub unit: String,
    #[serde(default = "neither")]
    pub better: Better,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<(Number, Number)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trivial: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paired: Option<WirePaired>,
    #[serde(default)]
    pub headline: bool,
}

/// A paired difference in a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WirePaired {
    pub port: String,
    pub difference: Number,
    pub low: Number,
    pub high: Number,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detectable: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right_to_wrong: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong_to_right: Option<u64>,
}

impl From<&Paired> for WirePaired {
    fn from(paired: &Paired) -> Self {
        Self {
            port: paired.port.clone(),
            difference: Number(paired.difference),
            low: Number(paired.low),
            high: Number(paired.high),
            p: paired.p.map(Number),
            detectable: paired.detectable.map(Number),
            right_to_wrong: paired.right_to_wrong,
            wrong_to_right: paired.wrong_to_right,
        }
    }
}

impl From<WirePaired> for Paired {
    fn from(wire: WirePaired) -> Self {
        Self {
            port: wire.port,
            difference: wire.difference.0,
            low: wire.low.0,
            high: wire.high.0,
            p: wire.p.map(|number| number.0),
            detectable: wire.detectable.map(|number| number.0),
            right_to_wrong: wire.right_to_wrong,
            wrong_to_right: wire.wrong_to_right,
        }
    }
}

fn neither() -> Better {
    Better::Neither
}

impl From<&Metric> for WireMetric {
    fn from(metric: &Metric) -> Self {
        Self {
            name: metric.name.clone(),
            value: Number(metric.value),
            unit: metric.unit.clone(),
            better: metric.better,
            n: metric.n,
            stderr: metric.stderr.map(Number),
            range: metric.range.map(|(low, high)| (Number(low), Number(high))),
            trivial: metric.trivial.map(Number),
            paired: metric.paired.as_ref().map(WirePaired::from),
            headline: metric.headline,
        }
    }
}

impl From<WireMetric> for Metric {
    fn from(wire: WireMetric) -> Self {
        Self {
            name: wire.name,
            value: wire.value.0,
            unit: wire.unit,
            better: wire.better,
            n: wire.n,
            stderr: wire.stderr.map(|number| number.0),
            range: wire.range.map(|(low, high)| (low.0, high.0)),
            trivial: wire.trivial.map(|number| number.0),
            paired: wire.paired.map(Paired::from),
            headline: wire.headline,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{NodeSpec, ParamSpec};

    fn schema() -> Schema {
        let node = |name, ty| NodeSpec::value(ParamSpec::new(name, ty, ""));
        Schema::new(vec![
            node("rate", ParamType::Float { min: 0.0, max: 1.0 }),
            node("batch", ParamType::list(ParamType::at_least(1))),
            node("data", ParamType::FileOr(&["auto"])),
        ])
    }

    #[test]
    fn parameters_come_back_with_their_types() {
        let params = Params(BTreeMap::from([
            ("rate".into(), Value::Float(1.0)),
            ("batch".into(), Value::List(vec![Value::Int(1), Value::Int(8)])),
            ("data".into(), Value::File("/d.bin".into())),
        ]));
        let json = params_to_json(&params).unwrap();
        let text = serde_json::to_string(&json).unwrap();
        let back: WireParams = serde_json::from_str(&text).unwrap();
        assert_eq!(params_from_json(&schema(), &back).unwrap(), params);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let of = |path: &str, json: Json| {
            params_from_json(&schema(), &WireParams::from([(path.to_owned(), json)])).unwrap_err().to_string()
        };
        assert_eq!(of("speed", Json::from(1)), "there is no parameter `speed`");
        assert_eq!(of("rate", Json::from(2.0)), "`rate` takes a number from 0 to 1, not `2.0`");
        assert!(of("batch", serde_json::json!([1, 0])).starts_with("`batch` takes an integer ≥ 1"));
    }

    #[test]
    fn metrics_round_trip_including_what_json_cannot_say() {
        let paired =
            Paired { port: "against".into(), difference: f64::INFINITY, p: Some(0.5), ..Paired::default() };
        let metric = Metric::new("ppl", f64::INFINITY, "", Better::Lower).range(1.0, f64::INFINITY).n(7);
        let metric = metric.paired(Some(paired));
        let text = serde_json::to_string(&WireMetric::from(&metric)).unwrap();
        assert!(text.contains(r#""value":"inf""#), "{text}");
        assert_eq!(Metric::from(serde_json::from_str::<WireMetric>(&text).unwrap()), metric);
        let least: WireMetric = serde_json::from_str(r#"{"name":"words","value":3}"#).unwrap();
        assert_eq!(Metric::from(least), Metric::new("words", 3.0, "", Better::Neither));
    }
}
