//! One shape of work, measured: prompts of one length in a batch, read and continued.

use std::time::Instant;

use qpipe_sdk::{Better, Context, Metric, StageError};

use super::Plan;
use super::instruments::{Energy, Instruments};
use crate::evaluate::statistics::splitmix64;
use crate::model::generate::Decoder;
use crate::model::llama::Llama;

/// Sequences at once, and tokens of each prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) batch: usize,
    pub(super) prompt: usize,
}

impl Shape {
    /// `b1.p128`
    pub(super) fn name(self) -> String {
        format!("b{}.p{}", self.batch, self.prompt)
    }
}

/// One run of a shape. Times are seconds.
struct Run {
    /// Until the first token of every sequence was there.
    ttft: f64,
    /// Each step after it: one more token of every sequence.
    steps: Vec<f64>,
    cache_bytes: usize,
    /// Of reading the prompt and of decoding.
    energy: [Energy; 2],
    /// Of the GPU right after, MHz.
    clock: Option<f64>,
    /// Steps ran kernel by kernel, though they should have been a recording's.
    is_unrecorded: bool,
}

impl Run {
    fn decode(&self) -> f64 {
        self.steps.iter().sum()
    }
}

/// Prefill and decode figures of one shape.
pub(super) fn measure(
    ctx: &Context<'_>,
    plan: &Plan,
    model: &Llama,
    shape: Shape,
    instruments: &Instruments,
) -> Result<Vec<Metric>, StageError> {
    let prompts = prompts(shape, model.config.vocab_size);
    let (mut runs, all) = (Vec::new(), plan.warmup + plan.repeat);
    for i in 0..all {
        ctx.checkpoint()?;
        runs.push(run(model, &prompts, plan.generate, instruments));
        ctx.progress(i + 1, all, &format!("runs of {}", shape.name()));
    }
    if runs.iter().any(|run| run.is_unrecorded) {
        ctx.log(format!(
            "{}: the device refused to record decoding steps; they ran kernel by kernel",
            shape.name()
        ));
    }
    let first_use = runs[0].ttft + runs[0].decode();
    let mut metrics = figures(plan, shape, &runs[plan.warmup..]);
    metrics.push(Metric::new(format!("first-use.{}", shape.name()), first_use, "s", Better::Lower).n(1));
    Ok(metrics)
}

fn run(model: &Llama, prompts: &[Vec<u32>], generate: usize, instruments: &Instruments) -> Run {
    let start = instruments.moment();
    let clock = Instant::now();
    let mut decoder = Decoder::start(model, prompts, generate);
    let ttft = clock.elapsed().as_secs_f64();
    let reading = instruments.since(&start, ttft);
    let between = instruments.moment();
    let mut step = || {
        let clock = Instant::now();
        decoder.step();
        clock.elapsed().as_secs_f64()
    };
    let steps: Vec<f64> = (1..generate).map(|_| step()).collect();
    let decoding = instruments.since(&between, steps.iter().sum());
    Run {
        ttft,
        steps,
        cache_bytes: decoder.cache_bytes(),
        energy: [reading, decoding],
        clock: instruments.clock(),
        is_unrecorded: decoder.is_unrecorded(),
    }
}

/// The metrics of the runs that count.
fn figures(plan: &Plan, shape: Shape, runs: &[Run]) -> Vec<Metric> {
    let Shape { batch, prompt } = shape;
    let name = |what: &str| format!("{what}.{}", shape.name());
    let of_runs = |f: &dyn Fn(&Run) -> f64| runs.iter().map(f).collect::<Vec<f64>>();
    let prefill = of_runs(&|run| (batch * prompt) as f64 / run.ttft);
    let mut metrics = vec![
        summary(&name("prefill"), "tokens/s", Better::Higher, &prefill),
        summary(&name("ttft"), "s", Better::Lower, &of_runs(&|run| run.ttft)),
    ];
    let after_first = plan.generate - 1;
    if after_first > 0 {
        let decode = of_runs(&|run| (batch * after_first) as f64 / run.decode());
        metrics.push(summary(&name("decode"), "tokens/s", Better::Higher, &decode));
        let tpot = of_runs(&|run| run.decode() / after_first as f64);
        metrics.push(summary(&name("tpot"), "s", Better::Lower, &tpot));
        metrics.extend(latencies(&name("itl"), runs));
        metrics.extend(plan.price_per_hour.map(|price| {
            let per_million = |tokens_per_s: &f64| price / 3600.0 / tokens_per_s * 1e6;
            let cost: Vec<f64> = decode.iter().map(per_million).collect();
            summary(&name("cost"), "usd/Mtoken", Better::Lower, &cost)
        }));
    }
    let tokens = [batch * prompt, batch * after_first];
    metrics.extend(energy(&name, "energy", runs, tokens, &|energy| energy.processor));
    metrics.extend(energy(&name, "gpu-energy", runs, tokens, &|energy| energy.gpu));
    metrics.extend(
        runs.iter()
            .map(|run| run.clock)
            .collect::<Option<Vec<f64>>>()
            .map(|clocks| summary(&name("gpu-clock"), "MHz", Better::Neither, &clocks)),
    );
    let cache = runs.first().map_or(0, |run| run.cache_bytes) as f64;
    metrics.push(Metric::new(name("kv-cache"), cache, "bytes", Better::Lower));
    metrics
}

/// Percentiles of the time between tokens, over all steps of all runs.
fn latencies(name: &str, runs: &[Run]) -> Vec<Metric> {
    let mut steps: Vec<f64> = runs.iter().flat_map(|run| &run.steps).copied().collect();
    steps.sort_by(f64::total_cmp);
    let metric = |share: u8| {
        let value = percentile(&steps, share);
        Metric::new(format!("{name}.p{share}"), value, "s", Better::Lower).n(steps.len() as u64)
    };
    [50, 95, 99].map(metric).into()
}

/// Joules per token read and per token decoded; nothing of what could not be measured in every run.
fn energy(
    name: &dyn Fn(&str) -> String,
    of: &str,
    runs: &[Run],
    tokens: [usize; 2],
    used: &dyn Fn(&Energy) -> Option<f64>,
) -> Vec<Metric> {
    let parts = ["prefill", "decode"].into_iter().zip(tokens).enumerate();
    let measured = parts.filter(|(_, (_, tokens))| *tokens > 0).filter_map(|(part, (what, tokens))| {
        let joules = runs.iter().map(|run| used(&run.energy[part])).collect::<Option<Vec<f64>>>()?;
        let per_token: Vec<f64> = joules.iter().map(|joules| joules / tokens as f64).collect();
        Some(summary(&name(&format!("{of}.{what}")), "J/token", Better::Lower, &per_token))
    });
    measured.collect()
}

/// Prompts of arbitrary tokens, the same in every run.
fn prompts(shape: Shape, vocabulary: usize) -> Vec<Vec<u32>> {
    let mut state = 42;
    let mut token = || (splitmix64(&mut state) % vocabulary as u64) as u32;
    (0..shape.batch).map(|_| (0..shape.prompt).map(|_| token()).collect()).collect()
}

/// Median of the samples, with their range.
pub(super) fn summary(name: &str, unit: &str, better: Better, samples: &[f64]) -> Metric {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
    let last = sorted.len().saturating_sub(1);
    let median = f64::midpoint(at(last / 2), at(sorted.len() / 2));
    Metric::new(name, median, unit, better).n(samples.len() as u64).range(at(0), at(last))
}

/// The smallest value that at least `share` percent of the sorted values do not exceed (nearest rank).
fn percentile(sorted: &[f64], share: u8) -> f64 {
    let rank = (usize::from(share) * sorted.len()).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(generate: usize, price_per_hour: Option<f64>) -> Plan {
        Plan { prompts: vec![100], batches: vec![2], generate, repeat: 3, warmup: 1, price_per_hour }
    }

    fn run_of(ttft: f64, step: f64) -> Run {
        let energy = [Energy { processor: None, gpu: None }; 2];
        Run { ttft, steps: vec![step; 4], cache_bytes: 64, energy, clock: None, is_unrecorded: false }
    }

    fn value(metrics: &[Metric], name: &str) -> f64 {
        metrics.iter().find(|m| m.name == name).unwrap_or_else(|| panic!("no `{name}`")).value
    }

    const SHAPE: Shape = Shape { batch: 2, prompt: 100 };

    #[test]
    fn figures_are_those_of_the_median_run() {
        let runs = [run_of(0.5, 0.01), run_of(1.0, 0.02), run_of(2.0, 0.04)];
        let metrics = figures(&plan(5, Some(3.6)), SHAPE, &runs);
        let expected = [
            ("prefill.b2.p100", 200.0),
            ("ttft.b2.p100", 1.0),
            ("decode.b2.p100", 100.0),
            ("tpot.b2.p100", 0.02),
            ("itl.b2.p100.p50", 0.02),
            ("itl.b2.p100.p99", 0.04),
            ("cost.b2.p100", 10.0),
            ("kv-cache.b2.p100", 64.0),
        ];
        for (name, wanted) in expected {
            assert!((value(&metrics, name) - wanted).abs() < 1e-9, "{name}: {}", value(&metrics, name));
        }
        let decode = metrics.iter().find(|m| m.name == "decode.b2.p100").unwrap();
        assert_eq!(
            (decode.n, decode.range.map(|(low, high)| (low.round(), high.round()))),
            (Some(3), Some((50.0, 200.0)))
        );
    }

    #[test]
    fn what_was_not_measured_is_absent_and_never_zero() {
        let runs = [Run { steps: vec![], ..run_of(0.5, 0.0) }];
        let metrics = figures(&plan(1, Some(3.6)), SHAPE, &runs);
        let names: Vec<&str> = metrics.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["prefill.b2.p100", "ttft.b2.p100", "kv-cache.b2.p100"]);
        let energy =
            [Energy { processor: Some(20.0), gpu: None }, Energy { processor: Some(4.0), gpu: Some(8.0) }];
        let measured = [Run { energy, clock: Some(1980.0), ..run_of(0.5, 0.01) }];
        let metrics = figures(&plan(5, None), SHAPE, &measured);
        assert!((value(&metrics, "gpu-energy.decode.b2.p100") - 1.0).abs() < 1e-9);
        assert!((value(&metrics, "gpu-clock.b2.p100") - 1980.0).abs() < 1e-9);
        assert!(metrics.iter().all(|m| m.name != "gpu-energy.prefill.b2.p100"));
        assert!((value(&metrics, "energy.prefill.b2.p100") - 0.1).abs() < 1e-9);
        assert!((value(&metrics, "energy.decode.b2.p100") - 0.5).abs() < 1e-9);
        assert!(metrics.iter().all(|m| !m.name.starts_with("cost")));
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let sorted: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!([50, 95, 99].map(|p| percentile(&sorted, p) as u32), [100, 190, 198]);
        assert_eq!(percentile(&[3.0], 99) as u32, 3);
        assert!(percentile(&[], 50).is_nan());
    }
}
