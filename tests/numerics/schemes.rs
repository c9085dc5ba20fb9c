//! Quantization schemes through the stages, on the embedded model.

use qpipe_sdk::Value;
use qpipe_stages::artifact::Encoding;
use qpipe_stages::quantize::Quantize;

use crate::generation::{last_logits, tiny};
use crate::stages::{Lab, text};

/// The real product of LLM.int8 is near the dense one, and only a threshold makes it depend on the batch.
#[test]
fn llm_int8_runs_and_says_whether_batches_matter() {
    let lab = Lab::new();
    let base = tiny(&lab);
    let dense = lab.model(&base);
    let ids = dense.tokenizer.encode("It is warm. Ben walks to the garden.", false).unwrap();
    let expected = last_logits(&dense.llama, &ids);
    for (threshold, dependent) in [(6.0, true), (0.0, false)] {
        let params = [("scheme", text("int8")), ("scheme.threshold", Value::Float(threshold))];
        let model = lab.model(&lab.quantize(&base, &params).artifact);
        assert_eq!(model.artifact.batch_dependent(), dependent);
        let logits = last_logits(&model.llama, &ids);
        let dot: f32 = logits.iter().zip(&expected).map(|(a, b)| a * b).sum();
        let norm = |x: &[f32]| x.iter().map(|v| v * v).sum::<f32>().sqrt();
        let cosine = dot / norm(&logits) / norm(&expected);
        assert!(cosine > 0.999 && logits != expected, "{threshold}: {cosine}");
    }
}

#[test]
fn rules_give_modules_schemes_of_their_own() {
    let lab = Lab::new();
    let base = tiny(&lab);
    let params = [
        ("scheme", text("nf4")),
        ("module.*.down_proj", text("rtn")),
        ("module.*.down_proj.bits", Value::Int(8)),
        ("module.model.layers.0.*", text("none")),
    ];
    let model = lab.model(&lab.quantize(&base, &params).artifact).artifact;
    let encoding = |name: &str| model.modules[name].encoding;
    let rtn = Encoding::Rtn { bits: 8, group: 128, symmetric: true };
    assert_eq!(encoding("model.layers.1.mlp.down_proj"), rtn);
    assert_eq!(encoding("model.layers.0.mlp.down_proj"), Encoding::Dense);
    assert_eq!(encoding("model.layers.1.mlp.up_proj"), Encoding::Nf4 { block: 64, double_quant: false });
    let typo = [("scheme", text("nf4")), ("module.*.dwn_proj", text("int8"))];
    let error = lab.run(&Quantize::default(), &typo, &[("model", &base)]).unwrap_err();
    assert!(error.to_string().contains("`module *.dwn_proj` matches no linear layer"), "{error}");
}

/// Scales, zero points and a row's last short group included.
#[test]
fn every_stored_byte_of_groups_is_counted() {
    let lab = Lab::new();
    let base = tiny(&lab);
    let (bits, group) = (4, 48);
    let params = [
        ("scheme", text("rtn")),
        ("scheme.group", Value::Int(group)),
        ("scheme.symmetric", Value::Bool(false)),
        ("skip", Value::List(vec![text("o_proj")])),
    ];
    let outcome = lab.quantize(&base, &params);
    let model = lab.model(&outcome.artifact).artifact;
    let stored = |(name, module): (&String, &qpipe_stages::artifact::Module)| {
        let n: usize = module.shape.iter().product();
        if !module.is_linear(name) || name.ends_with("o_proj") {
            return 2 * n;
        }
        let groups = module.shape[1].div_ceil(group as usize);
        module.shape[0] * ((module.shape[1] * bits).div_ceil(8) + 2 * groups + (groups * bits).div_ceil(8))
    };
    let expected: usize = model.modules.iter().map(stored).sum();
    let metric = |name: &str| outcome.metrics.iter().find(|m| m.name == name).unwrap().value;
    assert_eq!(metric("bytes") as usize, expected);
    assert!(metric("snr") > 15.0 && metric("cosine") > 0.98 && metric("max-error") > 0.0);
}
