//! The training loop.

use std::fs;
use std::time::Instant;

use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use qpipe_formats::{LlamaConfig, Tokenizer};
use qpipe_smallworld::{Corpus, MIX};
use qpipe_stages::device::ComputeDevice;
use qpipe_stages::model::compute::ComputeDtype;
use qpipe_stages::model::llama::Llama;
use qpipe_stages::model::ops::Place;
use serde_json::json;

use crate::batches::{Batch, Batches, WINDOW};
use crate::optimizer::{AdamW, rate_at};
use crate::parameters::Parameters;
use crate::{Arguments, checkpoint, examine, say};

/// Seeds of the tokenizer's sample and of the held-out sets; the corpus uses the run's own seed.
const TOKENIZER_SEED: u64 = 1;
const HELD_OUT_SEED: u64 = 7;

/// Steps between two lines of progress; the loss stays on the device until then.
const SAY_EVERY: usize = 20;

/// Held-out questions measured while training.
const QUESTIONS_WHILE_TRAINING: usize = 200;

pub(crate) fn train(arguments: &Arguments) -> Result<(), String> {
    fs::create_dir_all(&arguments.out)
        .map_err(|e| format!("failed to create `{}`: {e}", arguments.out.display()))?;
    let tokenizer_json = qpipe_smallworld::train_tokenizer(TOKENIZER_SEED).map_err(|e| e.to_string())?;
    let tokenizer = Tokenizer::from_json_bytes(&tokenizer_json).map_err(|e| e.to_string())?;
    let config = checkpoint::config(tokenizer.vocab_size(), arguments.hidden, arguments.layers)?;
    let place = ComputeDevice::resolve(&arguments.device).map_err(|e| e.to_string())?;
    let mut parameters = Parameters::initial(&config, arguments.seed, &place.device());
    say(&format!("{} parameters, vocabulary {}", parameters.count(), config.vocab_size));

    let mix = MIX.with_residents(arguments.residents);
    let items = qpipe_smallworld::evaluation_items_of(HELD_OUT_SEED, checkpoint::EVALUATION_ITEMS, &mix);
    let texts = qpipe_smallworld::heldout_text_of(HELD_OUT_SEED, checkpoint::HELD_OUT_STORIES, &mix);
    // many of the CPU's operators use one core: two halves of a batch side by side; a GPU takes a batch whole
    let parts = if place == ComputeDevice::Cpu { 2 } else { 1 };
    let batches = Batches::new(Corpus::of_mix(arguments.seed, mix), tokenizer.clone())?;
    let batches = batches.ahead(arguments.batch, parts);
    let (mut optimizer, clock, mut log) = (AdamW::default(), Instant::now(), Vec::new());
    let mut losses = Losses::default();
    let mut mean = f64::NAN;
    for step in 0..arguments.steps {
        let batch = batches.recv().map_err(|_| "the thread that makes batches ended".to_owned())??;
        let (loss, gradients) = gradients(&config, &parameters, &batch, &place.device())?;
        losses.add(loss);
        let rate = rate_at(step, arguments.steps, arguments.rate);
        optimizer.update(&mut parameters, gradients, rate);
        let last = step + 1 == arguments.steps;
        if last || (step + 1) % SAY_EVERY == 0 {
            mean = losses.take();
            let seconds = clock.elapsed().as_secs_f64();
            say(&format!("step {} loss {mean:.4} rate {rate:.5} {seconds:.0} s", step + 1));
        }
        if last || (step + 1) % arguments.every == 0 {
            let asked = if last { items.len() } else { QUESTIONS_WHILE_TRAINING };
            let exam = examine::examine(&config, &parameters, &tokenizer, &items[..asked], &texts)?;
            say(&format!("  after {} steps: {exam}", step + 1));
            log.push(json!({
                "step": step + 1, "positions": (step + 1) * arguments.batch * WINDOW,
                "training_loss": mean, "held_out": exam.to_json(),
            }));
            checkpoint::write(arguments, &config, &parameters, &tokenizer_json, &items, &texts, &log)?;
        }
    }
    Ok(())
}

/// The model over these parameters.
pub(crate) fn model(config: &LlamaConfig, parameters: &Parameters, device: &Device, place: Place) -> Llama {
    let mut weights = parameters;
    match Llama::build(config, ComputeDtype::F32, device, place, config.max_position_embeddings, &mut weights)
    {
        Ok(model) => model,
        Err(never) => match never {},
    }
}

/// The mean of losses since the last look.
#[derive(Default)]
struct Losses {
    sum: Option<Tensor<1>>,
    count: usize,
}

impl Losses {
    fn add(&mut self, loss: Tensor<1>) {
        self.count += 1;
        self.sum = Some(match self.sum.take() {
            Some(sum) => sum.add(loss),
            None => loss,
        });
    }

    fn take(&mut self) -> f64 {
        let Self { sum, count } = std::mem::take(self);
        sum.map_or(f64::NAN, |sum| sum.into_scalar::<f64>() / count as f64)
    }
}

/// Loss and gradients of a step, its parts side by side; summed in one order, so the result does not depend on which
/// part ends first.
fn gradients(
    config: &LlamaConfig,
    parameters: &Parameters,
    parts: &[Batch],
    device: &Device,
) -> Result<(Tensor<1>, Parameters), String> {
    let total = parts.iter().map(|part| part.total).sum();
    let (first, others) = parts.split_first().ok_or("a batch has at least one part")?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = others
            .iter()
            .map(|part| scope.spawn(move || part_gradients(config, parameters, part, total, device)))
            .collect();
        let mut sum = part_gradients(config, parameters, first, total, device);
        for thread in threads {
            let (loss, gradients) = thread.join().map_err(|_| "a training thread panicked".to_owned())?;
            sum = (sum.0.add(loss), sum.1.plus(gradients));
        }
        Ok(sum)
    })
}

/// Weighted cross-entropy over `total`, nats, and its gradients.
fn part_gradients(
    config: &LlamaConfig,
    parameters: &Parameters,
    batch: &Batch,
    total: f32,
    device: &Device,
) -> (Tensor<1>, Parameters) {
    let device = device.clone().autodiff();
    let leaves = parameters.leaves();
    let model = model(config, &leaves, &device, Place::Device);
    let n = batch.targets.len();
    let column = |values: TensorData| Tensor::<2, Int>::from_data(values, &device);
    let inputs = column(TensorData::new(batch.inputs.clone(), [n / WINDOW, WINDOW]));
    let targets = column(TensorData::new(batch.targets.clone(), [n, 1]));
    let weights = Tensor::<2>::from_data(TensorData::new(batch.weights.clone(), [n, 1]), &device);
    let logits = model.logits(model.hidden(inputs, None));
    let likelihood = activation::log_softmax(logits, 1).gather(1, targets);
    let loss = likelihood.mul(weights).sum().div_scalar(-total);
    let gradients = loss.backward();
    (loss.inner(), leaves.gradients(gradients))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::Parameter;

    /// A few steps of a small model on the CPU, into a folder of its own.
    fn trained(seed: u64) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let arguments = Arguments {
            out: folder.path().to_owned(),
            steps: 4,
            batch: 16,
            rate: 2e-3,
            seed,
            hidden: 64,
            layers: 2,
            residents: 8000,
            every: 100,
            device: "cpu".into(),
        };
        train(&arguments).unwrap();
        folder
    }

    #[test]
    fn the_same_seed_on_the_same_device_gives_the_same_bytes() {
        let (first, second, other) = (trained(3), trained(3), trained(4));
        let files = [
            "model.safetensors",
            "config.json",
            "tokenizer.json",
            "boolq.jsonl",
            "stories.jsonl",
            "training.json",
        ];
        let bytes = |folder: &tempfile::TempDir, file: &str| fs::read(folder.path().join(file)).unwrap();
        for file in files {
            assert!(bytes(&first, file) == bytes(&second, file), "`{file}` differs");
        }
        assert!(bytes(&first, "model.safetensors") != bytes(&other, "model.safetensors"), "the seed matters");
    }

    fn nudged(parameters: &Parameters, name: &str, by: f32) -> Parameters {
        let mut nudged = parameters.clone();
        let Some(Parameter::Matrix(t)) = nudged.0.get_mut(name) else { panic!("`{name}` is a matrix") };
        let shape = t.dims();
        let mut values = t.clone().into_data().try_into_vec::<f32>().unwrap();
        values[7] += by;
        *t = Tensor::from_data(TensorData::new(values, shape), &Device::flex());
        nudged
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let config = checkpoint::config(40, 64, 2).unwrap();
        let parameters = Parameters::initial(&config, 3, &Device::flex());
        let token = |i: usize| ((i * 7 + i / 5) % 40) as i64;
        let n = 2 * WINDOW;
        let inputs: Vec<i64> = (0..n).map(token).collect();
        let targets: Vec<i64> = (1..=n).map(token).collect();
        let batch = Batch { inputs, targets, weights: vec![1.0; n], total: n as f32 };
        let (_, gradients) = part_gradients(&config, &parameters, &batch, batch.total, &Device::flex());
        for module in
            ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj"]
        {
            let name = format!("model.layers.0.{module}.weight");
            let Parameter::Matrix(gradient) = &gradients.0[&name] else { panic!("a matrix") };
            let gradient = gradient.clone().into_data().try_into_vec::<f32>().unwrap()[7];
            let loss = |by: f32| {
                part_gradients(&config, &nudged(&parameters, &name, by), &batch, batch.total, &Device::flex())
                    .0
                    .into_scalar::<f64>()
            };
            let difference = (loss(0.05) - loss(-0.05)) / 0.1;
            println!("{name}: {gradient} {difference}");
            let scale = f64::from(gradient).abs().max(1e-5);
            assert!(
                (f64::from(gradient) - difference).abs() < 0.1 * scale,
                "{name}: {gradient}, {difference}"
            );
        }
    }
}
