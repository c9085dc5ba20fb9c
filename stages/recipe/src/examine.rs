//! Held-out figures: yes/no accuracy and F1 on questions, loss on plain stories.

use std::fmt;

use burn::tensor::{Device, Int, Tensor, TensorData};
use qpipe_formats::{LlamaConfig, Tokenizer};
use qpipe_smallworld::Item;
use qpipe_stages::model::llama::Llama;
use qpipe_stages::model::ops::Place;
use qpipe_stages::model::score::{Continuation, Plan, score};
use serde_json::{Value, json};

use crate::parameters::Parameters;
use crate::train::model;

pub(crate) struct Exam {
    questions: usize,
    accuracy: f64,
    f1: f64,
    loss: f64,
}

impl fmt::Display for Exam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { questions, accuracy, f1, loss } = self;
        write!(
            f,
            "{questions} questions: accuracy {accuracy:.4} F1 {f1:.4}; stories: {loss:.4} nat per token"
        )
    }
}

impl Exam {
    pub(crate) fn to_json(&self) -> Value {
        json!({ "questions": self.questions, "accuracy": self.accuracy, "f1": self.f1, "story_nll": self.loss })
    }
}

pub(crate) fn examine(
    config: &LlamaConfig,
    parameters: &Parameters,
    tokenizer: &Tokenizer,
    items: &[Item],
    texts: &[String],
) -> Result<Exam, String> {
    let device = Device::flex();
    let model = model(config, &parameters.to(&device), &device, Place::Host);
    let (accuracy, f1) = questions(&model, tokenizer, items)?;
    let loss = story_loss(&model, tokenizer, &texts[..texts.len().min(100)])?;
    Ok(Exam { questions: items.len(), accuracy, f1, loss })
}

fn questions(model: &Llama, tokenizer: &Tokenizer, items: &[Item]) -> Result<(f64, f64), String> {
    let encode = |text: &str| tokenizer.encode(text, false).map_err(|e| e.to_string());
    let mut asked = Vec::new();
    for item in items {
        let context = encode(&format!("{}\nQuestion: {}?\nAnswer:", item.passage, item.question))?;
        for answer in [" no", " yes"] {
            asked.push(Continuation { context: context.clone(), continuation: encode(answer)? });
        }
    }
    let scores = score(model, &asked, Plan::default(), &mut |_, _| Ok::<(), String>(()))?;
    let (mut right, mut tp, mut fp, mut fn_) = (0, 0, 0, 0);
    for (item, pair) in items.iter().zip(scores.chunks(2)) {
        let yes = pair[1].log_likelihood > pair[0].log_likelihood;
        right += usize::from(yes == item.answer);
        tp += usize::from(yes && item.answer);
        fp += usize::from(yes && !item.answer);
        fn_ += usize::from(!yes && item.answer);
    }
    Ok((right as f64 / items.len() as f64, 2.0 * tp as f64 / (2 * tp + fp + fn_).max(1) as f64))
}

/// Mean negative log-likelihood per token of stories, each from its own start.
fn story_loss(model: &Llama, tokenizer: &Tokenizer, texts: &[String]) -> Result<f64, String> {
    let (mut total, mut count) = (0.0, 0usize);
    for text in texts {
        let ids = tokenizer.encode(text, false).map_err(|e| e.to_string())?;
        let tokens: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
        let n = tokens.len() - 1;
        let input = Tensor::<2, Int>::from_data(TensorData::new(tokens[..n].to_vec(), [1, n]), &model.device);
        let nll = qpipe_stages::model::score::negative_log_likelihoods(
            model,
            &model.hidden(input, None),
            &ids[1..],
        );
        total += nll.iter().sum::<f64>();
        count += n;
    }
    Ok(total / count as f64)
}
