//! A tiny Llama with random weights, against transformers' logits.

use std::fs;

use burn::tensor::{Device, Int, Tensor, TensorData};
use qpipe_formats::{LlamaConfig, TensorFile};
use qpipe_stages::model::compute::ComputeDtype;
use qpipe_stages::model::linear::{Linear, Matrix};
use qpipe_stages::model::llama::{Llama, Weights};
use qpipe_stages::model::ops::Place;

/// Weights straight from a checkpoint's file.
pub(crate) struct Checkpoint(pub(crate) TensorFile<Vec<u8>>, pub(crate) Place);

impl Checkpoint {
    fn values<const D: usize>(&self, module: &str) -> Result<Tensor<D>, qpipe_formats::FormatError> {
        // a bias is a module of its own
        let name = if module.rsplit('.').next() == Some("bias") {
            module.to_owned()
        } else {
            format!("{module}.weight")
        };
        let view = self.0.get(&name)?;
        Ok(Tensor::from_data(TensorData::new(qpipe_formats::to_f32(&view), view.shape), &Device::flex()))
    }
}

impl Weights for Checkpoint {
    type Error = qpipe_formats::FormatError;

    fn vector(&mut self, module: &str) -> Result<Tensor<1>, Self::Error> {
        self.values(module)
    }

    fn matrix(&mut self, module: &str) -> Result<Matrix, Self::Error> {
        let tensor = self.values::<2>(module)?;
        Ok(match self.1 {
            Place::Device => tensor.into(),
            Place::Host => {
                let shape = tensor.dims();
                Matrix::Host { values: tensor.into_data().try_into_vec().unwrap().into(), shape }
            }
        })
    }

    fn linear(&mut self, module: &str) -> Result<Linear, Self::Error> {
        self.matrix(module).map(Linear::Dense)
    }
}

fn largest_difference(place: Place) -> f32 {
    let read = |name: &str| fs::read(crate::golden(name)).unwrap();
    let config = LlamaConfig::from_hf_json(&read("tiny/base-bf16/config.json")).unwrap();
    let mut weights = Checkpoint(TensorFile::parse(read("tiny/base-bf16/model.safetensors")).unwrap(), place);
    let golden = TensorFile::parse(read("tiny/logits.safetensors")).unwrap();
    let ids = golden.get("input_ids").unwrap();
    let tokens: Vec<i64> = ids.bytes.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
    let device = Device::flex();
    let model = Llama::build(&config, ComputeDtype::F32, &device, place, 64, &mut weights).unwrap();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [ids.shape[0], ids.shape[1]]), &device);
    let logits = model.logits(model.hidden(tokens, None)).into_data().try_into_vec::<f32>().unwrap();
    let expected = qpipe_formats::to_f32(&golden.get("logits.f32").unwrap());
    assert_eq!(logits.len(), expected.len());
    logits.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn logits_equal_the_references_in_fused_host_loops_and_in_burn_operators() {
    for place in [Place::Host, Place::Device] {
        let difference = largest_difference(place);
        assert!(difference < 1e-4, "{place:?}: {difference}");
    }
}
