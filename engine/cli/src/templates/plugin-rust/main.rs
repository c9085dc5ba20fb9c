//! A qpipe plugin: the stage type `NAME`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use qpipe_sdk::files::Files;
use qpipe_sdk::{
    ArtifactKind, Better, Context, Determinism, KeyedBy, Metric, NodeSpec, Outcome, OutputFile, ParamSpec, ParamType,
    Schema, Stage, StageError, StageSpec, Value,
};

struct Words(StageSpec);

impl Words {
    fn new() -> Self {
        let text = ParamSpec::new("text", ParamType::File, "The text.").required();
        let top = ParamSpec::new("top", ParamType::at_least(1), "How many words.").default(Value::Int(10));
        Self(StageSpec {
            kind: "NAME",
            semantics: 1,
            doc: "Counts the words of a file.",
            inputs: Vec::new(),
            output: ArtifactKind::new(ArtifactKind::FILES),
            schema: Schema::new(vec![NodeSpec::value(text), NodeSpec::value(top)]),
            determinism: Determinism::Exact,
        })
    }
}

impl Stage for Words {
    fn spec(&self) -> &StageSpec {
        &self.0
    }

    fn files(&self) -> Vec<OutputFile> {
        let doc = "WORD COUNT, most frequent first".to_owned();
        vec![OutputFile { name: "table".to_owned(), doc, required: true }]
    }

    /// `check` and `sources` look at parameters and their files alone. Where yours look at more, leave this out.
    fn keyed_by(&self) -> KeyedBy {
        KeyedBy::Params
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        let text = String::from_utf8(ctx.store.read(&ctx.source("text")?)?).map_err(StageError::config)?;
        let mut counts = BTreeMap::new();
        for word in text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
            *counts.entry(word.to_lowercase()).or_insert(0) += 1;
        }
        let distinct = Metric::new("distinct", counts.len() as f64, "words", Better::Neither);
        let mut rows: Vec<(String, u64)> = counts.into_iter().collect();
        rows.sort_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
        let top = ctx.params.int("top").unwrap_or(10) as usize;
        let table = rows.iter().take(top).map(|(word, count)| format!("{word}\t{count}\n")).collect();
        let artifact = Files::of_texts(ctx.store, [("table", table)])?.commit(ctx.store)?;
        Ok(Outcome { artifact, metrics: vec![Metric { headline: true, ..distinct }] })
    }
}

fn main() -> ExitCode {
    qpipe_sdk::plugin::main(vec![Box::new(Words::new())])
}

#[cfg(test)]
mod tests {
    use qpipe_sdk::Params;
    use qpipe_sdk::cache::Store;
    use qpipe_sdk::plugin::run_alone;

    use super::*;

    #[test]
    fn words_are_counted() {
        let folder = std::env::temp_dir().join(format!("NAME-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("text.txt"), "b a b c a b\n").unwrap();
        let store = Store::open(&folder.join("store")).unwrap();
        let mut params = Params::default();
        params.set("text", Value::File(folder.join("text.txt")));
        params.set("top", Value::Int(2));
        let made = run_alone(&Words::new(), &params, &store).unwrap();
        Files::read(&store, &made.artifact.digest).unwrap().place(&store, &folder.join("made")).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("made/table")).unwrap(), "b\t3\na\t2\n");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
