//! How far one model's next-token distributions are from another's, at the same positions. Both models run batch by
//! batch; of their logits only a block of rows exists at a time.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::plan::{Plan, distinct_inputs};
use super::{Continuation, LOGIT_BUDGET, greedy_token, hidden_rows, normalizer, scored_rows};
use crate::model::llama::Llama;
use crate::model::ops::host_values;

/// The comparison of two models over one continuation's tokens, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Divergence {
    /// Kullback-Leibler divergence KL(base ‖ variant) of each token's distribution, nats.
    pub kl: Vec<f32>,
    /// Tokens at which both models hold the same token most likely.
    pub agreed: usize,
}

/// Compares `variant` with `base` at every scored position of the continuations. The models have one vocabulary.
pub fn divergences<E>(
    base: &Llama,
    variant: &Llama,
    asked: &[Continuation],
    plan: Plan,
    after_batch: &mut dyn FnMut(usize, usize) -> Result<(), E>,
) -> Result<Vec<Divergence>, E> {
    let longest = base.config.max_position_embeddings.min(variant.config.max_position_embeddings);
    let inputs = distinct_inputs(asked, longest);
    let mut all = vec![Divergence::default(); asked.len()];
    let (vocabulary, mut done) = (base.config.vocab_size, 0);
    let step = (LOGIT_BUDGET / vocabulary).max(1);
    for batch in plan.batches(&inputs) {
        let scored = scored_rows(&batch);
        let hidden = [base, variant].map(|model| hidden_rows(model, &batch, &scored));
        for (i, owners) in scored.owners.chunks(step).enumerate() {
            let [p, q] = [(base, &hidden[0]), (variant, &hidden[1])]
                .map(|(model, hidden)| model.logits(hidden.clone().narrow(0, i * step, owners.len())));
            let compared = compared(base, p, q);
            for (owner, (kl, agreed)) in owners.iter().zip(compared) {
                all[*owner].kl.push(kl);
                all[*owner].agreed += usize::from(agreed);
            }
        }
        done += batch.inputs.len();
        after_batch(done, inputs.len())?;
    }
    Ok(all)
}

/// Every row of logits `[rows, vocabulary]` compared.
#[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "a GPU compares by itself"))]
fn compared(base: &Llama, p: Tensor<2>, q: Tensor<2>) -> Vec<(f32, bool)> {
    #[cfg(feature = "cuda")]
    if base.gpu().is_some() {
        return crate::model::on_cuda::divergences(p, q);
    }
    let [_, vocabulary] = p.dims();
    let (p, q) = (host_values(p), host_values(q));
    p.par_chunks(vocabulary).zip(q.par_chunks(vocabulary)).map(|(p, q)| compare(p, q)).collect()
}

/// `Σ p (ln p − ln q)` of two rows of logits, and whether their largest values stand at the same place.
fn compare(p: &[f32], q: &[f32]) -> (f32, bool) {
    let ((p_max, p_sum), (q_max, q_sum)) = (normalizer(p), normalizer(q));
    let term = |(p, q): (&f32, &f32)| {
        let log_p = f64::from(p - p_max) - p_sum;
        let log_q = f64::from(q - q_max) - q_sum;
        let p = log_p.exp();
        // a token that the base rules out counts nothing, whatever the variant says
        if p > 0.0 { p * (log_p - log_q) } else { 0.0 }
    };
    let kl: f64 = p.iter().zip(q).map(term).sum();
    // rounding can leave equal distributions a hair below nothing
    let kl = if kl < 0.0 { 0.0 } else { kl };
    (kl as f32, greedy_token(p, p_max) == greedy_token(q, q_max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_divergence_of_known_distributions() {
        // p = (1/2, 1/2), q = (1/4, 3/4): KL = ln 2 − (ln 3)/2 + … = 0.5 ln(0.5/0.25) + 0.5 ln(0.5/0.75)
        let (kl, agreed) = compare(&[0.0, 0.0], &[0.25_f32.ln(), 0.75_f32.ln()]);
        let expected = 0.5 * 2.0_f64.ln() + 0.5 * (0.5_f64 / 0.75).ln();
        assert!((f64::from(kl) - expected).abs() < 1e-6, "{kl}");
        assert!(!agreed, "the first of equal logits is taken");
        assert_eq!(compare(&[1.0, 2.0, 3.0], &[11.0, 12.0, 13.0]), (0.0, true));
        assert!(compare(&[0.0, 1.0], &[f32::NAN, 1.0]).0.is_nan());
        let (ruled_out, _) = compare(&[0.0, f32::NEG_INFINITY], &[0.0, f32::NEG_INFINITY]);
        assert!(ruled_out.abs() < 1e-9);
    }
}
