//! The rotary embedding in a `config.json`: `rope_theta` and `rope_scaling`, or both within `rope_parameters` since
//! transformers 5.

use serde_json::{Map, Value, json};

use super::hf_json::{Document, invalid, missing, unsupported};
use super::{RopeScaling, Yarn};
use crate::error::FormatError;

const SUPPORTED: &str = "rope types `default`, `linear`, `llama3`, `yarn`";

/// `rope_theta` and the scaling. `context`: `max_position_embeddings`.
pub(super) fn read(doc: &Document<'_>, context: usize) -> Result<(f64, Option<RopeScaling>), FormatError> {
    let object = |field| match doc.get(field).map(|value| (value, value.as_object())) {
        Some((value, None)) => Err(invalid(field, value, "an object")),
        Some((_, Some(map))) if map.is_empty() => Ok(None),
        found => Ok(found.and_then(|(_, map)| map)),
    };
    let (field, map) = match (object("rope_scaling")?, object("rope_parameters")?) {
        (Some(map), _) => ("rope_scaling", map),
        (None, Some(map)) => ("rope_parameters", map),
        (None, None) => return Ok((doc.number("rope_theta")?.unwrap_or(10_000.0), None)),
    };
    let rope = Rope { doc: Document { fields: map }, outer: doc, field, context };
    let theta = match rope.doc.number("rope_theta")? {
        Some(theta) => Some(theta),
        None => doc.number("rope_theta")?,
    };
    Ok((theta.unwrap_or(10_000.0), rope.scaling()?))
}

/// The fields that `transformers` reads this scaling from.
pub(super) fn write(scaling: &RopeScaling) -> Value {
    match scaling {
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
            })
        }
        RopeScaling::Yarn(yarn) => json!({
            "rope_type": "yarn",
            "factor": yarn.factor,
            "attention_factor": yarn.attention_factor,
            "beta_fast": yarn.beta_fast,
            "beta_slow": yarn.beta_slow,
            "original_max_position_embeddings": yarn.original_max_position_embeddings,
            "truncate": yarn.truncate,
        }),
        // a longrope whose two lists agree is a plain list of divisors
        RopeScaling::Factors { factors } => json!({
            "rope_type": "longrope",
            "attention_factor": 1.0,
            "long_factor": factors,
            "short_factor": factors,
        }),
    }
}

struct Rope<'a> {
    /// The object of the rope's own fields.
    doc: Document<'a>,
    outer: &'a Document<'a>,
    field: &'static str,
    context: usize,
}

impl Rope<'_> {
    fn scaling(&self) -> Result<Option<RopeScaling>, FormatError> {
        for doc in [&self.doc, self.outer] {
            if let Some(factor) = doc.get("partial_rotary_factor").filter(|f| f.as_f64() != Some(1.0)) {
                return Err(unsupported("partial_rotary_factor", factor, "`1.0`"));
            }
        }
        let kind = match self.doc.get("rope_type").or_else(|| self.doc.get("type")) {
            Some(kind) => kind.as_str(),
            // without a type it holds `rope_theta` alone, unless it nests one object per kind of layer
            None => self.doc.fields.values().all(|v| !v.is_object()).then_some("default"),
        };
        Ok(Some(match kind {
            Some("default") => return Ok(None),
            Some("linear") => RopeScaling::Linear { factor: self.require("factor")? },
            Some("llama3") => RopeScaling::Llama3 {
                factor: self.require("factor")?,
                low_freq_factor: self.require("low_freq_factor")?,
                high_freq_factor: self.require("high_freq_factor")?,
                original_max_position_embeddings: self.original_context()?,
            },
            Some("yarn") => RopeScaling::Yarn(self.yarn()?),
            Some("longrope") => RopeScaling::Factors { factors: self.factors()? },
            _ => return Err(self.unsupported()),
        }))
    }

    fn yarn(&self) -> Result<Yarn, FormatError> {
        let original_max_position_embeddings = self.original_context()?;
        let stretch = self.context as f64 / original_max_position_embeddings as f64;
        let factor = self.doc.number("factor")?.unwrap_or(stretch);
        let of = |mscale| Yarn::temperature(factor, mscale);
        let scale = |field| Ok::<_, FormatError>(self.doc.number(field)?.filter(|m| *m != 0.0));
        let inferred = match (scale("mscale")?, scale("mscale_all_dim")?) {
            (Some(mscale), Some(all)) => of(mscale) / of(all),
            _ => of(1.0),
        };
        Ok(Yarn {
            factor,
            attention_factor: self.doc.number("attention_factor")?.unwrap_or(inferred),
            beta_fast: scale("beta_fast")?.unwrap_or(32.0),
            beta_slow: scale("beta_slow")?.unwrap_or(1.0),
            original_max_position_embeddings,
            truncate: self.doc.flag("truncate")?.unwrap_or(true),
        })
    }

    /// The divisors of a longrope that does not depend on the sequence's length.
    fn factors(&self) -> Result<Vec<f32>, FormatError> {
        let (long, short) = (self.doc.get("long_factor"), self.doc.get("short_factor"));
        let is_plain = long == short && self.doc.number("attention_factor")? == Some(1.0);
        let list = long.filter(|_| is_plain).and_then(Value::as_array).ok_or_else(|| self.unsupported())?;
        let number =
            |v: &Value| v.as_f64().map(|v| v as f32).ok_or_else(|| invalid("long_factor", v, "numbers"));
        list.iter().map(number).collect()
    }

    fn original_context(&self) -> Result<usize, FormatError> {
        const FIELD: &str = "original_max_position_embeddings";
        match self.outer.size(FIELD)? {
            Some(context) => Ok(context),
            None => Ok(self.doc.size(FIELD)?.unwrap_or(self.context)),
        }
    }

    fn require(&self, field: &str) -> Result<f64, FormatError> {
        self.doc.number(field)?.ok_or_else(|| missing(&format!("{}.{field}", self.field)))
    }

    fn unsupported(&self) -> FormatError {
        unsupported(self.field, &Value::Object(Map::clone(self.doc.fields)), SUPPORTED)
    }
}
