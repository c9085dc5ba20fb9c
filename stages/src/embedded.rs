//! The embedded tiny model and its held-out sets: what makes the first study run with no download.
//! `stages/recipe` makes these files.

/// A file of the embedded model, compiled into the program.
pub struct EmbeddedFile {
    pub name: &'static str,
    pub bytes: &'static [u8],
}

macro_rules! embedded {
    ($name:literal) => {
        EmbeddedFile { name: $name, bytes: include_bytes!(concat!("../../pipelines/tiny/", $name)) }
    };
}

/// The checkpoint `embedded=tiny`, as a Hugging Face folder would hold it.
pub const TINY: [EmbeddedFile; 3] =
    [embedded!("config.json"), embedded!("tokenizer.json"), embedded!("model.safetensors")];

/// Held-out yes/no questions, one JSON object a line, in BoolQ's shape.
pub const TINY_QUESTIONS: EmbeddedFile = embedded!("boolq.jsonl");

/// Held-out stories, one JSON object a line, for perplexity.
pub const TINY_STORIES: EmbeddedFile = embedded!("stories.jsonl");
