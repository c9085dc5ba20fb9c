//! Evaluation: log-likelihoods against lm-evaluation-harness on transformers, what is scored again when something
//! changes, and comparisons of two models.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use burn::tensor::{Int, Tensor, TensorData};
use qpipe_cache::Lookup;
use qpipe_sdk::{Artifact, EventSink, Metric, Outcome, StageEvent, Value};
use qpipe_stages::evaluate::{Evaluate, EvaluationArtifact, LoggedItem};
use qpipe_stages::load::Load;
use qpipe_stages::weights::LoadedModel;
use serde_json::Value as Json;

use crate::stages::{Lab, text};

/// Largest difference of an item's log-likelihood, nats.
const TOLERANCE: f64 = 0.02;

type Given = Vec<(String, Value)>;

/// `task.NAME` with its parameters.
fn task(name: &str, params: &[(&str, Value)]) -> Given {
    let mut all = vec![(format!("task.{name}"), Value::Bool(true))];
    all.extend(params.iter().map(|(param, value)| (format!("task.{name}.{param}"), value.clone())));
    all
}

fn evaluate(lab: &Lab, given: &Given, inputs: &[(&str, &Artifact)]) -> Outcome {
    let params: Vec<(&str, Value)> =
        given.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    lab.run(&Evaluate::default(), &params, inputs).unwrap()
}

fn tiny(lab: &Lab) -> Artifact {
    let params = [("from.embedded", text("tiny")), ("compute-dtype", text("f32"))];
    lab.run(&Load::default(), &params, &[]).unwrap().artifact
}

fn log(lab: &Lab, outcome: &Outcome, task: &str) -> Vec<LoggedItem> {
    let document: EvaluationArtifact =
        serde_json::from_slice(&lab.store.read(&outcome.artifact.digest).unwrap()).unwrap();
    let bytes = lab.store.read(&document.tasks[task].items).unwrap();
    String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn metric<'a>(outcome: &'a Outcome, name: &str) -> &'a Metric {
    outcome.metrics.iter().find(|m| m.name == name).unwrap_or_else(|| panic!("no metric `{name}`"))
}

fn golden(name: &str) -> BTreeMap<String, Json> {
    serde_json::from_slice(&fs::read(crate::golden("evaluation").join(name)).unwrap()).unwrap()
}

/// Compares an item log with the harness's results: `[log-likelihood, greedy]` per request, or for pages a number.
fn check(task: &str, log: &[LoggedItem], expected: &Json) {
    let expected = expected.as_array().unwrap();
    assert_eq!(log.len(), expected.len(), "{task}");
    for (item, requests) in log.iter().zip(expected) {
        let requests = requests.as_array().unwrap();
        if task == "wikitext" {
            let total: f64 = item.log_likelihoods.iter().map(|ll| ll.0).sum();
            assert!((total - requests[0].as_f64().unwrap()).abs() < TOLERANCE, "{task} {}: {total}", item.id);
            continue;
        }
        for (i, request) in requests.iter().enumerate() {
            let (ours, theirs) = (item.log_likelihoods[i].0, request[0].as_f64().unwrap());
            assert!((ours - theirs).abs() < TOLERANCE, "{task} {} {i}: {ours}, not {theirs}", item.id);
            assert_eq!(item.greedy[i], request[1].as_bool().unwrap(), "{task} {} {i}", item.id);
        }
    }
}

fn rows_file(lab: &Lab, task: &str, rows: &Json) -> PathBuf {
    let lines: Vec<String> = rows.as_array().unwrap().iter().map(ToString::to_string).collect();
    lab.file(&format!("{task}.jsonl"), lines.join("\n").as_bytes())
}

#[test]
fn likelihoods_of_every_task_are_the_harnesss_on_the_embedded_model() {
    let lab = Lab::new();
    let model = tiny(&lab);
    let (prompts, likelihoods) = (golden("prompts.json"), golden("likelihoods.json"));
    for (name, entry) in &prompts {
        let data = Value::File(rows_file(&lab, name, &entry["rows"]));
        let mut params = vec![("data", data)];
        if name == "wikitext" {
            // the tokenizer adds no such token, so that the two ways are one
            params.push(("compat", text("lm-eval")));
        }
        let outcome = evaluate(&lab, &task(name, &params), &[("model", &model)]);
        check(name, &log(&lab, &outcome, name), &likelihoods["items"][name]);
        if name == "wikitext" {
            continue;
        }
        params.push(("shots", Value::Int(2)));
        let outcome = evaluate(&lab, &task(name, &params), &[("model", &model)]);
        let shots = log(&lab, &outcome, name);
        check(name, &shots, &likelihoods["shots"][name]);
        assert_eq!(shots[0].id, 2, "examples are not scored");
    }
}

#[test]
fn likelihoods_of_real_data_are_the_harnesss_on_smollm2() {
    let Some(path) = crate::path_in("QPIPE_TEST_SMOLLM2", "likelihoods of real data") else { return };
    let Some(data) = crate::path_in("QPIPE_TEST_DATA", "likelihoods of real data") else { return };
    let lab = Lab::new();
    let model = lab.load_gguf(&path, "bf16");
    let files = [
        ("boolq", "boolq/validation"),
        ("arc_easy", "arc_easy/test"),
        ("winogrande", "winogrande_xl/validation"),
        ("openbookqa", "openbookqa/test"),
        ("lambada_openai", "lambada_openai/test"),
    ];
    let likelihoods = golden("smollm2.json");
    for (name, file) in files {
        let file = data.join("data").join(format!("{file}.jsonl"));
        let given = task(name, &[("data", Value::File(file)), ("limit", Value::Int(8))]);
        let outcome = evaluate(&lab, &given, &[("model", &model)]);
        check(name, &log(&lab, &outcome, name), &likelihoods[name]);
    }
}

#[test]
fn rows_and_raw_text_of_wikitext_are_the_same_pages() {
    let Some(data) = crate::path_in("QPIPE_TEST_DATA", "the pages of WikiText-2") else { return };
    let lab = Lab::new();
    let model = tiny(&lab);
    let logs = ["jsonl", "txt"].map(|end| {
        let file = data.join(format!("data/wikitext2-raw/test.{end}"));
        let given = task("wikitext", &[("data", Value::File(file)), ("limit", Value::Int(2))]);
        let outcome = evaluate(&lab, &given, &[("model", &model)]);
        let words = metric(&outcome, "wikitext.word_perplexity").n;
        (words, log(&lab, &outcome, "wikitext").iter().map(|item| item.tokens.clone()).collect::<Vec<_>>())
    });
    assert_eq!(logs[0], logs[1]);
}

#[test]
fn a_custom_task_that_describes_boolq_scores_the_same() {
    let lab = Lab::new();
    let model = tiny(&lab);
    let file = Value::File(crate::golden("../../pipelines/tiny/boolq.jsonl"));
    let boolq = task("boolq", &[("data", file.clone()), ("limit", Value::Int(40)), ("shots", Value::Int(1))]);
    let custom = task(
        "custom",
        &[
            ("data", file),
            ("limit", Value::Int(40)),
            ("shots", Value::Int(1)),
            ("prompt", text("{passage}\nQuestion: {question}?\nAnswer:")),
            ("choices", text("no|yes")),
            ("label", text("answer")),
        ],
    );
    let built_in = evaluate(&lab, &boolq, &[("model", &model)]);
    let (described, units) = watched(&lab, &custom, &model);
    for name in ["acc", "f1", "f1-macro", "f1-weighted", "margin"] {
        let (ours, theirs) =
            (metric(&described, &format!("custom.{name}")), metric(&built_in, &format!("boolq.{name}")));
        assert_eq!((ours.value, ours.stderr), (theirs.value, theirs.stderr), "{name}");
    }
    assert!(units.iter().all(|cached| *cached), "equal requests are equal units, whatever asks for them");
    let cloze = task(
        "custom",
        &[
            ("data", Value::File(crate::golden("../../pipelines/tiny/boolq.jsonl"))),
            ("limit", Value::Int(10)),
            ("prompt", text("{passage}\nQuestion: {question}?\nAnswer:")),
            ("target", text("yes")),
        ],
    );
    let cloze = evaluate(&lab, &cloze, &[("model", &model)]);
    assert!(metric(&cloze, "custom.ppl").value >= 1.0 && metric(&cloze, "custom.acc").value <= 1.0);
}

/// Hears whether each unit was found in the cache.
#[derive(Default)]
struct Units(Mutex<Vec<bool>>);

impl EventSink for Units {
    fn emit(&self, event: StageEvent) {
        if let StageEvent::Unit { cached, .. } = event {
            self.0.lock().unwrap().push(cached);
        }
    }
}

/// An evaluation, and whether each of its units was found in the cache.
fn watched(lab: &Lab, given: &Given, model: &Artifact) -> (Outcome, Vec<bool>) {
    let params: Vec<(&str, Value)> =
        given.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let units = Units::default();
    let outcome = lab.run_with(&Evaluate::default(), &params, &[("model", model)], &units).unwrap();
    (outcome, units.0.into_inner().unwrap())
}

/// Items that all shards in the store hold: those that a model has scored.
fn scored_items(lab: &Lab) -> usize {
    let shards = lab.store.ls().unwrap().into_iter().filter(|record| record.stage == "evaluate/score");
    let items = |key| match lab.store.lookup(&key) {
        Lookup::Hit(record) => {
            let log = lab.store.read(&record.outputs["items"].digest).unwrap();
            log.split(|byte| *byte == b'\n').count() - 1
        }
        other => panic!("{other:?}"),
    };
    shards.map(|record| items(record.key)).sum()
}

/// Log-probabilities `[position][token]` without evaluation's own code.
fn log_probabilities(model: &LoadedModel, ids: &[u32]) -> Vec<Vec<f64>> {
    let tokens: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, ids.len()]), &model.llama.device);
    let logits =
        model.llama.logits(model.llama.hidden(tokens, None)).into_data().try_into_vec::<f32>().unwrap();
    let row = |row: &[f32]| {
        let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
        row.iter().map(|logit| f64::from(*logit) - sum.ln()).collect()
    };
    logits.chunks(model.llama.config.vocab_size).map(row).collect()
}

#[test]
fn a_raised_limit_scores_only_the_new_items() {
    let lab = Lab::new();
    let model = tiny(&lab);
    let asked = |limit: i64| {
        let given = task("boolq", &[("data", text("tiny")), ("limit", Value::Int(limit))]);
        let (outcome, units) = watched(&lab, &given, &model);
        (outcome, scored_items(&lab), units)
    };
    // shards hold about a hundred of these items: all limits end within one
    let (_, first, _) = asked(130);
    let (_, second, _) = asked(131);
    let (last, third, units) = asked(180);
    assert_eq!((first, second - first, third - second), (130, 1, 49), "{units:?}");
    let fresh = Lab::new();
    let whole = task("boolq", &[("data", text("tiny")), ("limit", Value::Int(180))]);
    let whole = evaluate(&fresh, &whole, &[("model", &tiny(&fresh))]);
    for (pieced, at_once) in log(&lab, &last, "boolq").iter().zip(log(&fresh, &whole, "boolq")) {
        assert_eq!((pieced.id, pieced.prediction), (at_once.id, at_once.prediction));
        let pairs = pieced.log_likelihoods.iter().zip(&at_once.log_likelihoods);
        assert!(pairs.into_iter().all(|(a, b)| (a.0 - b.0).abs() < 1e-4), "{}", pieced.id);
    }
}

#[test]
fn a_model_whose_scores_depend_on_the_batch_gets_its_last_shard_whole() {
    let lab = Lab::new();
    let llm_int8 = lab.quantize(&tiny(&lab), &[("scheme", text("int8"))]).artifact;
    let asked = |limit: i64| {
        let given = task("boolq", &[("data", text("tiny")), ("limit", Value::Int(limit))]);
        evaluate(&lab, &given, &[("model", &llm_int8)]);
        scored_items(&lab)
    };
    assert_eq!((asked(20), asked(30)), (20, 50), "thirty items again, in one batch plan");
}

#[test]
fn another_model_is_compared_on_the_same_items() {
    let lab = Lab::new();
    let base = tiny(&lab);
    let fp4 = lab.quantize(&base, &[("scheme", text("fp4"))]).artifact;
    let mut given = task("boolq", &[("data", text("tiny")), ("limit", Value::Int(300))]);
    given.extend(task(
        "perplexity",
        &[
            ("data", text("tiny")),
            ("window", Value::Int(128)),
            ("join", Value::Bool(false)),
            ("limit", Value::Int(120)),
            ("kl", Value::Int(60)),
        ],
    ));
    let alone = evaluate(&lab, &given, &[("model", &base)]);
    assert!(alone.metrics.iter().all(|m| m.paired.is_none()), "nothing to compare with");
    let scored = scored_items(&lab);
    let compared = evaluate(&lab, &given, &[("model", &fp4), ("against", &base)]);
    assert_eq!(scored_items(&lab) - scored, 420, "the base's own scores are found");

    let acc = metric(&compared, "boolq.acc").paired.clone().unwrap();
    let (lost, won) = (acc.right_to_wrong.unwrap(), acc.wrong_to_right.unwrap());
    let difference = metric(&compared, "boolq.acc").value - metric(&alone, "boolq.acc").value;
    assert!((acc.difference - difference).abs() < 1e-12);
    assert!(((won as f64 - lost as f64) / 300.0 - difference).abs() < 1e-12);
    let nll = metric(&compared, "perplexity.nll").paired.clone().unwrap();
    let difference = metric(&compared, "perplexity.nll").value - metric(&alone, "perplexity.nll").value;
    assert!((nll.difference - difference).abs() < 1e-12 && nll.low < difference && difference < nll.high);
    let spread = metric(&compared, "perplexity.nll").stderr.unwrap();
    assert!(nll.high - nll.low < 2.0 * 1.96 * spread, "pairing sees more than two standard errors do");

    let kl = metric(&compared, "perplexity.kl");
    let tail = metric(&compared, "perplexity.kl.p99").value;
    let agreement = metric(&compared, "perplexity.top1-agreement").value;
    assert!(kl.value > 1e-4 && kl.value < tail && tail < 20.0, "{} {tail}", kl.value);
    assert!(agreement > 0.5 && agreement < 1.0, "{agreement}");
    assert!(kl.n < metric(&compared, "perplexity.nll").n, "half of the windows are compared");

    let itself = evaluate(&lab, &given, &[("model", &base), ("against", &base)]);
    assert!(metric(&itself, "perplexity.kl").value.abs() < f64::EPSILON);
    assert!(
        itself.metrics.iter().filter_map(|m| m.paired.as_ref()).all(|p| p.p.is_none() && p.difference == 0.0)
    );
}

#[test]
fn the_divergence_of_nearly_equal_models_is_the_one_of_their_logits() {
    let lab = Lab::new();
    let base = tiny(&lab);
    let int8 = lab.quantize(&base, &[("scheme", text("int8-weight-only"))]).artifact;
    let given = task(
        "perplexity",
        &[
            ("data", text("tiny")),
            ("window", Value::Int(16)),
            ("join", Value::Bool(false)),
            ("limit", Value::Int(1)),
        ],
    );
    let outcome = evaluate(&lab, &given, &[("model", &int8), ("against", &base)]);
    let stories = fs::read_to_string(crate::golden("../../pipelines/tiny/stories.jsonl")).unwrap();
    let story: Json = serde_json::from_str(stories.lines().next().unwrap()).unwrap();
    let [p, q] = [&base, &int8].map(|artifact| {
        let model = lab.model(artifact);
        let ids = model.tokenizer.encode(story["text"].as_str().unwrap(), false).unwrap();
        log_probabilities(&model, &ids[..16])
    });
    // the last position predicts a token beyond the window
    let kl = |p: &[f64], q: &[f64]| p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
    let expected = p.iter().zip(&q).take(15).map(|(p, q)| kl(p, q)).sum::<f64>() / 15.0;
    let ours = metric(&outcome, "perplexity.kl").value;
    assert!((ours - expected).abs() < 1e-5, "{ours}, not {expected}");
}

#[test]
fn what_cannot_be_scored_is_refused_by_name() {
    let lab = Lab::new();
    let model = tiny(&lab);
    let refused = |given: Given| {
        let params: Vec<(&str, Value)> =
            given.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let error = lab.run(&Evaluate::default(), &params, &[("model", &model)]).unwrap_err();
        assert_eq!(error.class(), qpipe_sdk::ErrorClass::Config, "{error}");
        error.to_string()
    };
    let file = |name: &str, text: &str| Value::File(lab.file(name, text.as_bytes()));
    let broken = file(
        "broken.jsonl",
        "{\"goal\": \"a\", \"sol1\": \"b\", \"sol2\": \"c\", \"label\": 0}\n{\"goal\": \"a\"}\n",
    );
    assert_eq!(
        refused(task("piqa", &[("data", broken)])),
        "task `piqa`: `broken.jsonl`, row 2: no field `sol1`; there are `goal`"
    );
    assert!(refused(task("piqa", &[("data", file("e.jsonl", ""))])).contains("no items"));
    assert!(refused(task("piqa", &[("data", file("n.jsonl", "[1]\n"))])).contains("n.jsonl"));
    let few = [("data", text("tiny")), ("shots", Value::Int(1000))];
    assert!(refused(task("boolq", &few)).contains("no items"));
    let window = [("data", text("tiny")), ("window", Value::Int(100_000))];
    assert!(refused(task("perplexity", &window)).contains("longer than the model's context of 512"));
    let long = format!("{{\"text\": \"a {}\"}}\n", "b".repeat(3000));
    assert!(
        refused(task("lambada_openai", &[("data", file("l.jsonl", &long))]))
            .contains("item 0: a continuation has")
    );
}

#[test]
fn a_prompt_longer_than_the_context_loses_its_beginning() {
    let lab = Lab::new();
    let model = tiny(&lab);
    let row = |words: usize| {
        let passage = "It is warm. ".repeat(words);
        serde_json::json!({ "passage": passage, "question": "is it warm", "answer": true }).to_string()
    };
    // beyond the context, what stands further to the left changes nothing
    let scores = [300, 400].map(|words| {
        let file = lab.file(&format!("{words}.jsonl"), row(words).as_bytes());
        let outcome = evaluate(&lab, &task("boolq", &[("data", Value::File(file))]), &[("model", &model)]);
        let log = log(&lab, &outcome, "boolq");
        log[0].log_likelihoods.iter().map(|ll| ll.0).collect::<Vec<_>>()
    });
    assert_eq!(scores[0], scores[1]);
}
