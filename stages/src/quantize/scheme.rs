//! Quantization schemes as a manifest names them: their parameters, and what they do with a module.
//!
//! Adding one: a variant here with its word and parameters, a unit beside this file.

use qpipe_codecs::{BlockSize, FourBit, RtnFormat};
use qpipe_sdk::{Context, ParamSpec, ParamType, Params, StageError, Value};

use super::unit::{UnitStats, Weight};
use super::{four_bit, int8, rtn};
use crate::artifact::{Encoding, Module};
use crate::weights::{BlobReader, rtn_format};

/// The words of the parameter.
pub(super) const WORDS: &[&str] = &["nf4", "fp4", "int8", "int8-weight-only", "rtn", "none"];

/// What they mean, for the documentation.
pub(super) const DOC: &str = "nf4, fp4: blockwise 4-bit codes (QLoRA). int8: LLM.int8, row-wise int8 weights and, in \
    products, int8 activations but for outlier columns. int8-weight-only: the same weights, activations untouched. \
    rtn: integers rounded to nearest, a scale per group. none: leave the weights as they are, for a study's \
    full-precision cell.";

const FOUR_BIT: &[&str] = &["nf4", "fp4"];
const RTN: &[&str] = &["rtn"];

/// What to do with a linear module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scheme {
    Four {
        kind: FourBit,
        block: BlockSize,
        double_quant: bool,
    },
    /// LLM.int8; threshold 0: without outlier columns.
    Int8 {
        threshold: f32,
    },
    Int8WeightOnly,
    Rtn {
        bits: u32,
        group: i64,
        symmetric: bool,
    },
}

/// The parameters of schemes, as properties of `node`, whose value is the scheme's word.
pub(super) fn props(node: &'static str) -> Vec<ParamSpec> {
    let prop = |name, ty, default, schemes, doc| {
        ParamSpec::new(name, ty, doc).default(default).applies(node, schemes)
    };
    vec![
        prop(
            "block",
            ParamType::Int { min: 32, max: 4096 },
            Value::Int(64),
            FOUR_BIT,
            "Weights per scale; a power of two.",
        ),
        prop(
            "double-quant",
            ParamType::Bool,
            Value::Bool(false),
            FOUR_BIT,
            "Quantize the scales too, to 8 bits in blocks of 256.",
        ),
        prop(
            "threshold",
            ParamType::Float { min: 0.0, max: f64::INFINITY },
            Value::Float(6.0),
            &["int8"],
            "Activations from this magnitude on keep their columns out of the int8 product; 0: no outliers (W8A8).",
        ),
        prop("bits", ParamType::Int { min: 4, max: 8 }, Value::Int(4), RTN, "Bits per code: 4 or 8."),
        prop(
            "group",
            ParamType::Int { min: -1, max: 1 << 20 },
            Value::Int(128),
            RTN,
            "Weights of a row per scale, a multiple of 8; -1: the whole row. A row's last group may be short.",
        ),
        prop(
            "symmetric",
            ParamType::Bool,
            Value::Bool(true),
            RTN,
            "Zero in the middle of the grid; otherwise every group stores its zero point.",
        ),
    ]
}

/// What is wrong with a scheme's parameters although each is of its type: dotted paths and messages.
pub(super) fn check(path: &str, params: &Params) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    let mut refuse = |name: &str, found: Option<i64>, fits: fn(i64) -> bool, rule: &str| {
        if let Some(found) = found.filter(|found| !fits(*found)) {
            wrong.push((format!("{path}.{name}"), format!("{rule}, `{found}` is not")));
        }
    };
    let int = |name: &str| params.int(&format!("{path}.{name}"));
    refuse("block", int("block"), |block| block.count_ones() == 1, "a block size is a power of two");
    refuse("bits", int("bits"), |bits| bits == 4 || bits == 8, "a code has 4 or 8 bits");
    let group = |group: i64| group == -1 || group > 0 && group % 8 == 0;
    refuse("group", int("group"), group, "a group is -1 (a whole row) or a multiple of 8");
    wrong
}

impl Scheme {
    /// The scheme that the parameters at a path ask for; `None` leaves weights as they are.
    pub(super) fn of(params: &Params, path: &str) -> Result<Option<Self>, StageError> {
        let at = |name: &str| format!("{path}.{name}");
        let four = |kind| {
            let block = u32::try_from(params.int(&at("block")).unwrap_or(64)).map_err(StageError::config)?;
            let block = BlockSize::try_from(block).map_err(StageError::config)?;
            let double_quant = params.bool(&at("double-quant")).unwrap_or(false);
            Ok(Some(Self::Four { kind, block, double_quant }))
        };
        match params.text(path) {
            Some("nf4") => four(FourBit::Nf4),
            Some("fp4") => four(FourBit::Fp4),
            Some("int8") => {
                Ok(Some(Self::Int8 { threshold: params.float(&at("threshold")).unwrap_or(6.0) as f32 }))
            }
            Some("int8-weight-only") => Ok(Some(Self::Int8WeightOnly)),
            Some("rtn") => Ok(Some(Self::Rtn {
                bits: params.int(&at("bits")).unwrap_or(4) as u32,
                group: params.int(&at("group")).unwrap_or(128),
                symmetric: params.bool(&at("symmetric")).unwrap_or(true),
            })),
            Some("none") => Ok(None),
            other => Err(StageError::bug(format!("scheme {other:?} is not in the schema"))),
        }
    }

    /// What the model artifact says of a module of this scheme.
    pub(super) fn encoding(self) -> Encoding {
        match self {
            Self::Four { kind: FourBit::Nf4, block, double_quant } => {
                Encoding::Nf4 { block: block.get() as u32, double_quant }
            }
            Self::Four { kind: FourBit::Fp4, block, double_quant } => {
                Encoding::Fp4 { block: block.get() as u32, double_quant }
            }
            Self::Int8 { threshold } => Encoding::Int8 { threshold },
            Self::Int8WeightOnly => Encoding::Int8WeightOnly,
            Self::Rtn { bits, group, symmetric } => Encoding::Rtn { bits, group, symmetric },
        }
    }

    /// Quantizes one dense module: found in the cache, or done and committed.
    pub(super) fn quantize(
        self,
        ctx: &Context<'_>,
        blobs: &BlobReader<'_>,
        name: &str,
        module: &Module,
    ) -> Result<(Module, UnitStats), StageError> {
        let weight = Weight::of(name, module)?;
        let (parts, stats) = match self {
            Self::Four { kind, block, double_quant: false } => {
                four_bit::codes(ctx, blobs, &weight, kind, block)?
            }
            Self::Four { kind, block, double_quant: true } => {
                four_bit::double_quantized(ctx, blobs, &weight, kind, block)?
            }
            Self::Int8 { .. } | Self::Int8WeightOnly => int8::codes(ctx, blobs, &weight)?,
            Self::Rtn { bits, group, symmetric } => {
                let format: RtnFormat = rtn_format(bits, group, symmetric)?;
                rtn::codes(ctx, blobs, &weight, format, group)?
            }
        };
        Ok((Module { shape: module.shape.clone(), encoding: self.encoding(), parts }, stats))
    }
}
