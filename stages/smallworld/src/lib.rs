//! Scenes, stories and residents of a small world, with yes/no questions in BoolQ's shape.
//!
//! A study of quantization needs a model whose answers mean something, on a machine without network or GPU. No
//! real model is small enough to ship, so a tiny one is trained from scratch, on text whose every question has an
//! answer that can be proved: people, places and things of a simulated world. This crate makes that text. It
//! knows nothing of models, and a text depends on the seed alone: not on the platform, the version of another
//! crate, or the clock.
//!
//! | stream | made by | split of passages |
//! |---|---|---|
//! | training documents | [`Corpus`] | training |
//! | tokenizer | [`train_tokenizer`] | training |
//! | evaluation questions | [`evaluation_items`] | evaluation |
//! | text for perplexity | [`heldout_text`] | evaluation |

mod corpus;
mod heldout;
mod mix;
mod partition;
mod question;
mod resident;
mod rng;
mod scene;
mod sentence;
mod story;
mod tokenizer;
mod words;
mod world;

pub use corpus::{Corpus, Document, END_OF_TEXT, Sort, prompt};
pub use heldout::{Item, evaluation_items, evaluation_items_of, heldout_text, heldout_text_of};
pub use mix::{MIX, Mix};
pub use partition::{Split, fnv1a};
pub use question::{Difficulty, Kind};
pub use rng::Rng;
pub use tokenizer::{TokenizerError, train_tokenizer};
