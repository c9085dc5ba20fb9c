//! What a trained model is measured on: questions, and plain text, both from passages that
//! no training document has. The facts of a held-out scene may well occur in training, told in another order or with
//! other verbs: it is the text that is held out, not the combination of facts.

use std::collections::HashSet;

use serde::Serialize;

use crate::corpus::with_recap;
use crate::mix::{MIX, Mix};
use crate::partition::Split;
use crate::question::{Kind, Question};
use crate::resident::Portrait;
use crate::rng::Rng;
use crate::scene::Scene;
use crate::story::Story;

/// One evaluation question. Serialized in BoolQ's shape, with the kind as a fourth field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Lowercase, without a question mark.
    pub question: String,
    /// True for yes.
    pub answer: bool,
    /// The scene or story, one paragraph.
    pub passage: String,
    /// What the question asks.
    pub kind: Kind,
}

/// `count` items about `count` different passages; in every kind as many answers yes as no (or one more of
/// either). A longer set of the same seed begins with the items of a shorter one.
pub fn evaluation_items(seed: u64, count: usize) -> Vec<Item> {
    evaluation_items_of(seed, count, &MIX)
}

/// As [`evaluation_items`], in another mix.
pub fn evaluation_items_of(seed: u64, count: usize, mix: &Mix) -> Vec<Item> {
    let mut rng = Rng::new(seed, "evaluation");
    let mut answers = Answers::default();
    let mut told = HashSet::new();
    let mut items = Vec::with_capacity(count);
    while items.len() < count {
        let kind = rng.weighted(mix.kinds).unwrap_or(Kind::Place);
        let answer = answers.next(kind, &mut rng);
        items.push(item(kind, answer, &mut told, &mut rng, mix));
    }
    items
}

/// Draws answers in pairs per kind, one yes and one no in random order.
#[derive(Default)]
struct Answers {
    /// The second answer of a pair whose first was drawn.
    owed: [Option<bool>; Kind::ALL.len()],
}

impl Answers {
    fn next(&mut self, kind: Kind, rng: &mut Rng) -> bool {
        let slot = &mut self.owed[kind as usize];
        slot.take().unwrap_or_else(|| {
            let first = rng.chance(50);
            *slot = Some(!first);
            first
        })
    }
}

/// Tells new scenes or stories until one can be asked about in this kind.
fn item(kind: Kind, answer: bool, told: &mut HashSet<String>, rng: &mut Rng, mix: &Mix) -> Item {
    loop {
        if kind == Kind::Detail {
            let scene = Scene::tell(Split::Evaluation, rng);
            let question = scene.ask(answer, rng);
            if told.insert(scene.passage.clone()) {
                return Item { question, answer, passage: scene.passage, kind };
            }
            continue;
        }
        if kind == Kind::Skill {
            let portrait = Portrait::tell(mix, Split::Evaluation, rng);
            let Some(question) = portrait.ask(answer, rng) else { continue };
            if told.insert(portrait.passage.clone()) {
                return Item { question, answer, passage: portrait.passage, kind };
            }
            continue;
        }
        let story = Story::tell(mix, Split::Evaluation, rng);
        let Some(question) = Question::ask(&story, kind, answer, rng) else { continue };
        if told.insert(story.passage.clone()) {
            return Item { question: question.text, answer, passage: story.passage, kind };
        }
    }
}

/// `stories` texts for perplexity: as many scenes among them as in training, without their questions. About half
/// of the stories end with a line of facts, as some training documents do: there the next word follows from the story
/// alone, so a model that loses track of it pays at once. A text may occur twice.
pub fn heldout_text(seed: u64, stories: usize) -> Vec<String> {
    heldout_text_of(seed, stories, &MIX)
}

/// As [`heldout_text`], in another mix.
pub fn heldout_text_of(seed: u64, stories: usize, mix: &Mix) -> Vec<String> {
    let mut rng = Rng::new(seed, "held-out text");
    (0..stories)
        .map(|index| {
            if rng.chance(mix.portrait_percent) {
                return Portrait::tell(mix, Split::Evaluation, &mut rng).passage;
            }
            if rng.chance(mix.scene_percent) {
                return Scene::tell(Split::Evaluation, &mut rng).passage;
            }
            let story = Story::tell(mix, Split::Evaluation, &mut rng);
            if index % 2 == 0 { story.passage } else { with_recap(&story, &mut rng) }
        })
        .collect()
}
