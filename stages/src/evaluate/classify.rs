//! Metrics of questions with choices, and of clozes.

use qpipe_sdk::{Better, Metric, Paired};

use super::choice::Question;
use super::ratio::{self, Ratio};
use super::scoring::{Against, Scored};
use super::shard::ItemScore;
use super::statistics::paired;
use super::statistics::{Confusion, bootstrap_stderr, share_stderr};
use super::task::Figures;

/// The metrics of scored questions.
pub(super) fn metrics(figures: Figures, questions: &[Question], scored: &Scored) -> Vec<Metric> {
    let right = |item: &ItemScore, question: &Question| item.most_likely() == question.label;
    let right_by_length =
        |item: &ItemScore, question: &Question| item.most_likely_per(&question.lengths) == question.label;
    let greedy = |item: &ItemScore, _: &Question| item.greedy.iter().all(|greedy| *greedy);
    let all = Answers { questions, scored };
    match figures {
        Figures::Accuracy => vec![all.share("acc", &right)],
        Figures::Normalized => vec![all.share("acc", &right), all.share("acc_norm", &right_by_length)],
        Figures::Binary => {
            let mut metrics = vec![all.share("acc", &right)];
            metrics.extend(all.f1s());
            metrics.push(all.margin());
            metrics
        }
        Figures::Cloze => vec![Metric { trivial: None, ..all.share("acc", &greedy) }, all.perplexity()],
    }
}

type IsRight<'a> = &'a dyn Fn(&ItemScore, &Question) -> bool;

struct Answers<'a> {
    questions: &'a [Question],
    scored: &'a Scored,
}

impl Answers<'_> {
    fn n(&self) -> usize {
        self.questions.len()
    }

    /// The share of right answers, beside that of always giving the most frequent one.
    fn share(&self, name: &str, is_right: IsRight<'_>) -> Metric {
        let right = |items: &[ItemScore]| -> Vec<bool> {
            items.iter().zip(self.questions).map(|(item, question)| is_right(item, question)).collect()
        };
        let ours = right(&self.scored.model);
        let share = ours.iter().filter(|right| **right).count() as f64 / self.n() as f64;
        let paired = match &self.scored.against {
            Against::Nothing => None,
            Against::Itself => Some(paired::itself()),
            Against::Model(theirs) => {
                Some(paired::accuracy(&right(theirs).into_iter().zip(ours).collect::<Vec<_>>()))
            }
        };
        let metric =
            Metric::new(name, share, "", Better::Higher).n(self.n() as u64).paired(paired).headline();
        Metric { stderr: share_stderr(share, self.n()), ..metric }.trivial(self.majority())
    }

    fn majority(&self) -> f64 {
        let most = self.questions.iter().map(|question| question.label).max().unwrap_or(0);
        let count = |label| self.questions.iter().filter(|question| question.label == label).count();
        (0..=most).map(count).max().unwrap_or(0) as f64 / self.n() as f64
    }

    /// Prediction and label of every item, as yes or no.
    fn pairs(&self, items: &[ItemScore]) -> Vec<(bool, bool)> {
        let pair = |(item, question): (&ItemScore, &Question)| (item.most_likely() == 1, question.label == 1);
        items.iter().zip(self.questions).map(pair).collect()
    }

    fn f1s(&self) -> Vec<Metric> {
        let ours = self.pairs(&self.scored.model);
        let of = |pairs: &[(bool, bool)], s: &[usize]| Confusion::of(s.iter().map(|i| pairs[*i])).f1s();
        let counts = Confusion::of(ours.iter().copied());
        let errors = bootstrap_stderr(self.n(), |s| of(&ours, s));
        let compared: Option<[Paired; 3]> = match &self.scored.against {
            Against::Nothing => None,
            Against::Itself => Some([(); 3].map(|()| paired::itself())),
            Against::Model(theirs) => {
                let theirs = self.pairs(theirs);
                let difference = |s: &[usize]| {
                    let (a, b) = (of(&ours, s), of(&theirs, s));
                    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
                };
                paired::bootstrap(self.n(), difference)
            }
        };
        let trivial = counts.always_positive().f1s();
        let names = ["f1", "f1-macro", "f1-weighted"];
        let metric = |(i, (name, value)): (usize, (&str, f64))| {
            let metric = Metric::new(name, value, "", Better::Higher).n(self.n() as u64).trivial(trivial[i]);
            let paired = compared.as_ref().map(|all| all[i].clone());
            Metric { stderr: errors.map(|all| all[i]), headline: i == 0, ..metric }.paired(paired)
        };
        names.into_iter().zip(counts.f1s()).enumerate().map(metric).collect()
    }

    /// How much more likely yes is than no, on average.
    fn margin(&self) -> Metric {
        let margin = |item: &ItemScore| item.log_likelihoods[1].0 - item.log_likelihoods[0].0;
        let mean = self.scored.model.iter().map(margin).sum::<f64>() / self.n() as f64;
        Metric::new("margin", mean, "nat", Better::Neither).n(self.n() as u64)
    }

    /// Of the one continuation, per item: `exp(−mean log-likelihood)`.
    fn perplexity(&self) -> Metric {
        let ratio = Ratio { name: "ppl", unit: "", transform: f64::exp, headline: true };
        ratio::metric(&ratio, self.scored, &vec![1.0; self.n()], self.n() as u64)
    }
}
