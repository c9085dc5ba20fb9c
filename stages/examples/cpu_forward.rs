//! Measures prefill on the CPU, and in the same run its ceiling:
//! `cargo run --release -p qpipe-stages --example cpu_forward -- MODEL.gguf [TOKENS [REPEATS]]`.
//!
//! Prefill scores every position of a window (perplexity's work: all layers, the output head, log-softmax). The ceiling
//! is what would be reached if only the products with weights cost time: the same products without anything else,
//! and burn's of the same shapes beside them. Rates are tokens/s, median [least–most]; CPU time is that of the process on all its threads.
#![expect(clippy::print_stdout, reason = "a program that prints measurements")]

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::{Device, Int, Tensor, TensorData};
use qpipe_formats::gguf::llama::LlamaWeights;
use qpipe_formats::{FormatError, Gguf, LlamaConfig};
use qpipe_stages::model::compute::ComputeDtype;
use qpipe_stages::model::linear::{Linear, Matrix};
use qpipe_stages::model::llama::{Llama, Weights};
use qpipe_stages::model::ops::Place;
use qpipe_stages::model::score::token_scores;

struct Reader<'g, 'a>(LlamaWeights<'g, 'a>);

impl Reader<'_, '_> {
    fn values(&self, module: &str) -> Result<(Vec<f32>, Vec<usize>), FormatError> {
        let name = if module.rsplit('.').next() == Some("bias") {
            module.to_owned()
        } else {
            format!("{module}.weight")
        };
        let weight = self.0.get(&name)?;
        Ok((weight.to_f32()?, weight.shape().to_vec()))
    }
}

impl Weights for Reader<'_, '_> {
    type Error = FormatError;

    fn vector(&mut self, module: &str) -> Result<Tensor<1>, FormatError> {
        let (values, shape) = self.values(module)?;
        Ok(Tensor::from_data(TensorData::new(values, shape), &Device::flex()))
    }

    fn matrix(&mut self, module: &str) -> Result<Matrix, FormatError> {
        let (values, shape) = self.values(module)?;
        Ok(Matrix::Host { values: values.into(), shape: [shape[0], shape[1]] })
    }

    fn linear(&mut self, module: &str) -> Result<Linear, FormatError> {
        self.matrix(module).map(Linear::Dense)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: cpu_forward MODEL.gguf [TOKENS [REPEATS]]")?;
    let tokens: usize = arguments.next().map_or(Ok(2048), |n| n.parse())?;
    let repeats: usize = arguments.next().map_or(Ok(5), |n| n.parse())?;

    let bytes = std::fs::read(path)?;
    let gguf = Gguf::parse(&bytes)?;
    let mut reader = Reader(LlamaWeights::new(&gguf)?);
    let config = reader.0.config().clone();
    let device = Device::flex();
    let model = Llama::build(&config, ComputeDtype::F32, &device, Place::Host, tokens, &mut reader)?;

    println!("{} threads, windows of {tokens} tokens", rayon::current_num_threads());
    let ids: Vec<i64> = (0..tokens).map(|i| (i * 7919 % config.vocab_size) as i64).collect();
    let targets: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
    measure("prefill", tokens, repeats, || {
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids.clone(), [1, tokens]), &device);
        let hidden = model.hidden(ids, None);
        black_box(token_scores(&model, &hidden, &targets));
    });
    let products = products(&config, &reader, tokens)?;
    measure("products alone", tokens, repeats, || {
        for ((weight, [out, k]), x) in &products {
            let mut y = vec![0.0; tokens * out];
            qpipe_codecs::matmul(weight, *out, *k, x, tokens, &mut y);
            black_box(y);
        }
    });
    let tensor = |values: &[f32], shape: [usize; 2]| {
        Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &device)
    };
    let tensors: Vec<_> = products
        .iter()
        .map(|((weight, shape), x)| (tensor(weight, *shape).transpose(), tensor(x, [tokens, shape[1]])))
        .collect();
    measure("burn's products", tokens, repeats, || {
        for (weight, x) in &tensors {
            black_box(x.clone().matmul(weight.clone()));
        }
    });
    Ok(())
}

/// A matrix `[out, in]` with its shape, and an input `[tokens, in]`.
type Product = ((Vec<f32>, [usize; 2]), Arc<[f32]>);

/// Every matrix of the model with an input of its width.
fn products(
    config: &LlamaConfig,
    reader: &Reader<'_, '_>,
    tokens: usize,
) -> Result<Vec<Product>, FormatError> {
    let mut modules: Vec<String> = config.expected_tensors().into_iter().map(|(name, _)| name).collect();
    modules.retain(|name| name.ends_with("_proj.weight"));
    modules.push("model.embed_tokens.weight".to_owned());
    let mut inputs = HashMap::new();
    let pair = |name: String| {
        let (values, shape) = reader.values(name.trim_end_matches(".weight"))?;
        let input = || (0..tokens * shape[1]).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect();
        let x: &Arc<[f32]> = inputs.entry(shape[1]).or_insert_with(input);
        Ok(((values, [shape[0], shape[1]]), Arc::clone(x)))
    };
    modules.into_iter().map(pair).collect()
}

fn measure(name: &str, tokens: usize, repeats: usize, mut work: impl FnMut()) {
    work();
    let mut rates = Vec::new();
    let before = cpu_seconds();
    for _ in 0..repeats {
        let start = Instant::now();
        work();
        rates.push(tokens as f64 / start.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    let cpu = cpu_seconds().zip(before).map_or(f64::NAN, |(after, before)| after - before);
    println!(
        "{name:>16}: {:.0} [{:.0}–{:.0}] tokens/s, {:.2} ms of CPU time per token",
        rates[repeats / 2],
        rates[0],
        rates[repeats - 1],
        1000.0 * cpu / (tokens * repeats) as f64,
    );
}

/// User and system time of this process in seconds, where Linux's `/proc` tells it (in hundredths).
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?) / 100.0)
}
