//! The shipped pipelines, compiled in: what `qpipe init` writes.

/// A study to begin with.
pub struct Template {
    pub name: &'static str,
    /// Where each file goes, and its text; the manifest first.
    pub files: &'static [(&'static str, &'static str)],
}

macro_rules! shipped {
    ($($path:literal),+) => {
        &[$(($path, include_str!(concat!("../../../pipelines/", $path)))),+]
    };
}

/// All of them, the usual one first.
pub const TEMPLATES: &[Template] = &[
    Template { name: "ablation", files: shipped!("ablation.kdl") },
    Template { name: "sweep", files: shipped!("sweep.kdl") },
    Template { name: "smollm2", files: shipped!("smollm2.kdl") },
    Template { name: "prune", files: shipped!("prune.kdl", "plugins/prune.py", "plugins/qpipe_stage.py") },
    Template {
        name: "peer",
        files: shipped!(
            "peer.kdl",
            "plugins/peer.py",
            "plugins/qpipe_stage.py",
            "tiny/stories.jsonl",
            "tiny/boolq.jsonl"
        ),
    },
    Template { name: "words", files: shipped!("words.kdl", "words/zipf.py", "tiny/stories.jsonl") },
];

impl Template {
    /// The manifest's name in its folder.
    pub fn manifest(&self) -> &'static str {
        self.files[0].0
    }

    /// The first sentence of the manifest's opening comment.
    pub fn about(&self) -> String {
        let lines = self.files[0].1.lines().map_while(|line| line.strip_prefix("// "));
        let text = lines.collect::<Vec<_>>().join(" ");
        let end = text.find(". ").map_or(text.len(), |at| at + 1);
        text[..end].trim_end_matches('.').to_owned()
    }
}
