//! Checkpoints that `transformers` and `bitsandbytes` wrote already quantized: what their names and JSON say.
//!
//! | tensor | 4-bit | int8 |
//! |---|---|---|
//! | `X.weight` | U8 `[(n + 1) / 2, 1]`, two codes a byte | I8 `[out, in]` |
//! | scales | `X.weight.absmax`, F32 or, quantized again, U8 | `X.SCB`, F32 `[out]` |
//! | tables | `X.weight.quant_map`, `X.weight.nested_quant_map` | – |
//! | more | `X.weight.nested_absmax`, `X.weight.quant_state.bitsandbytes__nf4` (JSON) | `X.weight_format`, 0 |

use serde::Deserialize;

use crate::error::FormatError;

const DOCUMENT: &str = "config.json";
const STATE: &str = "quant_state";

/// `quantization_config` of a `config.json`, as far as loading depends on it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct QuantizationConfig {
    /// `bitsandbytes`; no other method is read.
    quant_method: String,
    /// Activations of at least this are kept out of int8 products; 0: none are.
    #[serde(default = "default_threshold")]
    pub llm_int8_threshold: f32,
}

fn default_threshold() -> f32 {
    6.0
}

/// The `quantization_config` of a `config.json`; `None` for plain weights.
///
/// # Errors
/// [`FormatError::Json`], [`FormatError::InvalidField`], and [`FormatError::Unsupported`] for other methods.
pub fn quantization_config(json: &[u8]) -> Result<Option<QuantizationConfig>, FormatError> {
    #[derive(Deserialize)]
    struct Document {
        quantization_config: Option<serde_json::Value>,
    }
    let json_error = |source| FormatError::Json { document: DOCUMENT.to_owned(), source };
    let Document { quantization_config } = serde_json::from_slice(json).map_err(json_error)?;
    let Some(value) = quantization_config else { return Ok(None) };
    let config: QuantizationConfig = serde_json::from_value(value).map_err(json_error)?;
    if config.quant_method != "bitsandbytes" {
        let (field, value) = ("quantization_config.quant_method".to_owned(), config.quant_method);
        return Err(FormatError::Unsupported {
            document: DOCUMENT,
            field,
            value,
            supported: "`bitsandbytes`".into(),
        });
    }
    if !(config.llm_int8_threshold.is_finite() && config.llm_int8_threshold >= 0.0) {
        return Err(FormatError::InvalidField {
            document: DOCUMENT,
            field: "quantization_config.llm_int8_threshold".to_owned(),
            value: config.llm_int8_threshold.to_string(),
            expected: "a number that is not negative".to_owned(),
        });
    }
    Ok(Some(config))
}

/// The JSON beside a 4-bit weight.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct QuantState {
    /// `nf4` or `fp4`.
    pub quant_type: String,
    /// Weights per absmax.
    pub blocksize: u32,
    /// The weight's own shape, `[out, in]`.
    pub shape: Vec<usize>,
    /// absmax values per nested absmax, where they are quantized.
    pub nested_blocksize: Option<u32>,
    /// What was taken off the absmax values before they were quantized.
    pub nested_offset: Option<f32>,
}

/// The name of the tensor that holds the state of a weight quantized to `kind` (`nf4`, `fp4`).
pub fn state_name(weight: &str, kind: &str) -> String {
    format!("{weight}.quant_state.bitsandbytes__{kind}")
}

/// Reads the JSON beside the weight.
///
/// # Errors
/// [`FormatError::Json`] with the weight's name.
pub fn quant_state(weight: &str, json: &[u8]) -> Result<QuantState, FormatError> {
    serde_json::from_slice(json)
        .map_err(|source| FormatError::Json { document: format!("{weight}.{STATE}"), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_golden_config_and_refuses_other_methods() {
        let golden = include_bytes!("../../../tests/golden/tiny/int8/config.json");
        let config = quantization_config(golden).unwrap().unwrap();
        assert!((config.llm_int8_threshold - 6.0).abs() < f32::EPSILON);
        assert_eq!(quantization_config(br#"{"vocab_size":1}"#).unwrap(), None);
        assert_eq!(quantization_config(br#"{"quantization_config":null}"#).unwrap(), None);
        let other = br#"{"quantization_config":{"quant_method":"gptq","bits":4}}"#;
        let error = quantization_config(other).unwrap_err().to_string();
        assert!(error.contains("`gptq`") && error.contains("`bitsandbytes`"), "{error}");
        let negative = br#"{"quantization_config":{"quant_method":"bitsandbytes","llm_int8_threshold":-1}}"#;
        assert!(matches!(quantization_config(negative), Err(FormatError::InvalidField { .. })));
    }

    #[test]
    fn reads_a_state() {
        let json = br#"{"quant_type":"nf4","blocksize":64,"dtype":"bfloat16","shape":[128,320],
            "nested_blocksize":256,"nested_dtype":"float32","nested_offset":0.20723342895507812}"#;
        let state = quant_state("x.weight", json).unwrap();
        assert_eq!((state.blocksize, state.shape.as_slice()), (64, &[128, 320][..]));
        assert_eq!(state.nested_offset.map(f32::to_bits), Some(0.207_233_43_f32.to_bits()));
        let error = quant_state("x.weight", b"{\"quant_type\":1}").unwrap_err().to_string();
        assert!(error.contains("x.weight.quant_state"), "{error}");
    }
}
