//! A stage type in Rust, which `main.rs` makes a plugin: how often the words of a text occur, and how many of them are different.

use std::collections::BTreeMap;

use qpipe_sdk::files::Files;
use qpipe_sdk::{
    ArtifactKind, Better, Context, Determinism, KeyedBy, Metric, NodeSpec, Outcome, OutputFile, ParamSpec,
    ParamType, Schema, Stage, StageError, StageSpec, Value,
};

/// The stage type `wordstats`.
pub struct WordStats(StageSpec);

impl Default for WordStats {
    fn default() -> Self {
        Self::new()
    }
}

impl WordStats {
    /// Its declaration.
    pub fn new() -> Self {
        let text = ParamSpec::new("text", ParamType::File, "The text, in UTF-8.").required();
        let top = ParamSpec::new("top", ParamType::at_least(1), "How many words the table has.");
        Self(StageSpec {
            kind: "wordstats",
            semantics: 1,
            doc: "Counts the words of a text.",
            inputs: Vec::new(),
            output: ArtifactKind::new(ArtifactKind::FILES),
            schema: Schema::new(vec![NodeSpec::value(text), NodeSpec::value(top.default(Value::Int(10)))]),
            determinism: Determinism::Exact,
        })
    }
}

impl Stage for WordStats {
    fn spec(&self) -> &StageSpec {
        &self.0
    }

    fn files(&self) -> Vec<OutputFile> {
        vec![OutputFile {
            name: "table".into(),
            doc: "WORD COUNT, the most frequent first.".into(),
            required: true,
        }]
    }

    fn keyed_by(&self) -> KeyedBy {
        KeyedBy::Nothing
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        let bytes = ctx.store.read(&ctx.source("text")?)?;
        let text = String::from_utf8(bytes)
            .map_err(|e| StageError::Config(format!("the text is not UTF-8: {e}")))?;
        let mut counts = BTreeMap::new();
        for word in text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
            *counts.entry(word.to_lowercase()).or_insert(0_u64) += 1;
        }
        let (words, distinct) = (counts.values().sum::<u64>(), counts.len() as u64);
        let mut rows: Vec<(String, u64)> = counts.into_iter().collect();
        rows.sort_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
        let top = ctx.params.int("top").and_then(|top| usize::try_from(top).ok()).unwrap_or(usize::MAX);
        let lines: Vec<String> =
            rows.iter().take(top).map(|(word, count)| format!("{word}\t{count}\n")).collect();
        let artifact = Files::of_texts(ctx.store, [("table", lines.concat())])?.commit(ctx.store)?;
        let ratio = distinct as f64 / words.max(1) as f64;
        let metrics = vec![
            Metric {
                headline: true,
                n: Some(words),
                ..Metric::new("distinct", distinct as f64, "words", Better::Neither)
            },
            Metric { n: Some(words), ..Metric::new("type-token-ratio", ratio, "", Better::Neither) },
        ];
        Ok(Outcome { artifact, metrics })
    }
}
