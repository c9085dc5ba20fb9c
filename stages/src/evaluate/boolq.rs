//! BoolQ-style yes/no questions (Clark et al. 2019, arXiv 1905.10044), scored as lm-evaluation-harness does:
//! `{passage}\nQuestion: {question}?\nAnswer:` continued by ` no` or ` yes`; a tie is no; positive class yes.

use qpipe_sdk::{Better, KeyedChoice, Metric, ParamSpec, ParamType, StageError};
use serde::{Deserialize, Serialize};

use super::statistics::{Confusion, bootstrap_stderr};
use super::{Scoring, TaskResult, data_param, json_lines, shard};
use crate::model::score::{Continuation, score};

/// Items scored as one unit.
const SHARD: usize = 50;

const ANSWERS: [&str; 2] = [" no", " yes"];

pub(super) fn choice() -> KeyedChoice {
    KeyedChoice {
        name: "boolq",
        doc: "Yes/no questions about a passage: accuracy and F1 (positive = yes).",
        props: vec![
            data_param(
                "JSON lines with question, answer (boolean) and passage; `tiny`: the embedded small world's.",
            ),
            ParamSpec::new("limit", ParamType::at_least(1), "Score only the first items."),
        ],
    }
}

#[derive(Deserialize)]
struct Row {
    question: String,
    answer: bool,
    passage: String,
}

/// One line of the item log.
#[derive(Debug, Serialize, Deserialize)]
struct Item {
    /// Position in the data.
    id: usize,
    /// Log-likelihoods of ` no` and ` yes`, nats.
    log_likelihoods: [f64; 2],
    /// Tokens of the two continuations.
    tokens: [usize; 2],
    /// Whether greedy decoding would have produced each.
    greedy: [bool; 2],
    prediction: bool,
    label: bool,
}

pub(super) fn run(scoring: &Scoring<'_>) -> Result<TaskResult, StageError> {
    let mut questions: Vec<Row> = json_lines("boolq", &scoring.data()?)?;
    questions.truncate(scoring.int("limit").unwrap_or(usize::MAX));
    if questions.is_empty() {
        return Err(StageError::config("task `boolq`: the data holds no items"));
    }
    let (mut blobs, mut items) = (Vec::new(), Vec::new());
    for (i, chunk) in questions.chunks(SHARD).enumerate() {
        let first = i * SHARD;
        let asked = asked(scoring, chunk)?;
        let mut rest: Vec<u32> = chunk.iter().map(|q| u32::from(q.answer)).collect();
        rest.push(first as u32);
        let tokens = asked.iter().flat_map(|a| [&a.context[..], &a.continuation[..]]);
        let bytes = shard::encode_asked(tokens.chain([&rest[..]]));
        let (blob, scored) =
            shard::run(scoring, "boolq", &bytes, || score_shard(scoring, first, chunk, &asked))?;
        blobs.push(blob);
        items.extend(scored);
        scoring.ctx.progress(items.len(), questions.len(), "items");
    }
    let protocol = format!("boolq, lm-evaluation-harness prompt, zero-shot, bos {}", scoring.bos.name());
    Ok(TaskResult { protocol, items: blobs, metrics: metrics(&items) })
}

/// The two continuations of each question, as token ids: encoded together with the context, and split where the
/// context's own tokens end.
fn asked(scoring: &Scoring<'_>, questions: &[Row]) -> Result<Vec<Continuation>, StageError> {
    let mut all = Vec::with_capacity(2 * questions.len());
    for q in questions {
        let prompt = format!("{}\nQuestion: {}?\nAnswer:", q.passage, q.question);
        let context = scoring.encode(&prompt)?;
        for answer in ANSWERS {
            let whole = scoring.encode(&format!("{prompt}{answer}"))?;
            let continuation = whole.get(context.len()..).unwrap_or_default().to_vec();
            if continuation.is_empty() {
                return Err(StageError::config(format!(
                    "task `boolq`: `{answer}` adds no token to its prompt"
                )));
            }
            all.push(Continuation { context: context.clone(), continuation });
        }
    }
    Ok(all)
}

fn score_shard(
    scoring: &Scoring<'_>,
    first: usize,
    questions: &[Row],
    asked: &[Continuation],
) -> Result<Vec<Item>, StageError> {
    let scores = score(scoring.llama(), asked, &mut |_, _| scoring.ctx.checkpoint())?;
    let item = |(i, (question, pair)): (usize, (&Row, &[crate::model::score::Score]))| Item {
        id: first + i,
        log_likelihoods: [pair[0].log_likelihood, pair[1].log_likelihood],
        tokens: [pair[0].tokens, pair[1].tokens],
        greedy: [pair[0].greedy, pair[1].greedy],
        prediction: pair[1].log_likelihood > pair[0].log_likelihood,
        label: question.answer,
    };
    Ok(questions.iter().zip(scores.chunks(2)).enumerate().map(item).collect())
}

fn metrics(items: &[Item]) -> Vec<Metric> {
    let n = items.len() as u64;
    let pairs: Vec<(bool, bool)> = items.iter().map(|i| (i.prediction, i.label)).collect();
    let all = Confusion::of(&pairs);
    let always_yes = Confusion { tp: all.tp + all.fn_, fp: all.fp + all.tn, tn: 0, fn_: 0 };
    let majority = (all.tp + all.fn_).max(all.fp + all.tn) as f64 / n as f64;
    let margin = items.iter().map(|i| i.log_likelihoods[1] - i.log_likelihoods[0]).sum::<f64>() / n as f64;
    let f1_error = bootstrap_stderr(&pairs, |sample| Confusion::of(sample).f1());
    let accuracy_error = (all.accuracy() * (1.0 - all.accuracy()) / (n.max(2) - 1) as f64).sqrt();
    vec![
        Metric::new("acc", all.accuracy(), "", Better::Higher)
            .n(n)
            .stderr(accuracy_error)
            .trivial(majority)
            .headline(),
        Metric::new("f1", all.f1(), "", Better::Higher)
            .n(n)
            .stderr(f1_error)
            .trivial(always_yes.f1())
            .headline(),
        Metric::new("margin", margin, "nat", Better::Neither).n(n),
    ]
}
