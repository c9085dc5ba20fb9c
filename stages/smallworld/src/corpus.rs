//! Training documents without end: most tell a resident's portrait, most others a scene, the rest a story.
//!
//! A document with a question has the form of the evaluation prompt, so that a model trained on it is asked at
//! evaluation what it was trained to answer:
//!
//! ```text
//! {passage}
//! Question: {question}?
//! Answer: yes
//! <|endoftext|>
//! ```
//!
//! Yes and no teach one bit each, so a share of the questions asks for the fact itself and is replied to with the word
//! (of a scene) or a sentence (of a story) that names it. Some stories end with all that is true then instead, and a
//! few have neither. How many questions a document has is a number of [`crate::mix`]; with several, each follows the
//! answer before it.

use std::collections::HashSet;

use crate::mix::{MIX, Mix, Shape};
use crate::partition::Split;
use crate::question::{OpenQuestion, Question};
use crate::resident::Portrait;
use crate::rng::Rng;
use crate::scene::Scene;
use crate::story::Story;

/// Ends every training document; beginning and end of text at once.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Attempts to find a new question for one story before its document goes with fewer. (A scene always has one.)
const ATTEMPTS_PER_QUESTION: usize = 8;

/// What a document tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Scene,
    Story,
    Portrait,
}

/// One training document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub sort: Sort,
    /// Up to and with [`END_OF_TEXT`].
    pub text: String,
}

/// An endless iterator of training documents, the same for the same seed.
#[derive(Clone, Debug)]
pub struct Corpus {
    mix: Mix,
    rng: Rng,
}

impl Corpus {
    /// The documents of `seed`.
    pub fn new(seed: u64) -> Self {
        Self::of_mix(seed, MIX)
    }

    /// The documents of `seed` in another mix.
    pub fn of_mix(seed: u64, mix: Mix) -> Self {
        Self { mix, rng: Rng::new(seed, "training") }
    }

    /// The next document.
    pub fn next_document(&mut self) -> Document {
        let Self { mix, rng } = self;
        let (sort, body) = if rng.chance(mix.portrait_percent) {
            (Sort::Portrait, with_skills(&Portrait::tell(mix, Split::Training, rng), mix, rng))
        } else if rng.chance(mix.scene_percent) {
            (Sort::Scene, with_details(&Scene::tell(Split::Training, rng), mix, rng))
        } else {
            (Sort::Story, story(mix, rng))
        };
        Document { sort, text: format!("{body}\n{END_OF_TEXT}") }
    }
}

impl Iterator for Corpus {
    type Item = Document;

    fn next(&mut self) -> Option<Document> {
        Some(self.next_document())
    }
}

fn story(mix: &Mix, rng: &mut Rng) -> String {
    let shape = rng.weighted(mix.shapes).unwrap_or(Shape::Plain);
    let story = Story::tell(mix, Split::Training, rng);
    match shape {
        Shape::Questions => with_questions(&story, mix, rng),
        Shape::Recap => with_recap(&story, rng),
        Shape::Plain => story.passage,
    }
}

/// A portrait and questions about what its resident can do.
fn with_skills(portrait: &Portrait, mix: &Mix, rng: &mut Rng) -> String {
    let mut text = portrait.passage.clone();
    for (question, answer) in portrait.ask_several(mix.portrait_questions, rng) {
        text = format!("{} {}", prompt(&text, &question), if answer { "yes" } else { "no" });
    }
    text
}

/// The prompt whose continuation ` yes` or ` no` answers the question about the passage.
pub fn prompt(passage: &str, question: &str) -> String {
    format!("{passage}\nQuestion: {question}?\nAnswer:")
}

fn with_questions(story: &Story, mix: &Mix, rng: &mut Rng) -> String {
    let (fewest, most) = mix.questions;
    let wanted = rng.between(fewest, most);
    let mut asked = HashSet::new();
    let mut text = story.passage.clone();
    for _ in 0..wanted * ATTEMPTS_PER_QUESTION {
        if asked.len() == wanted {
            break;
        }
        let Some((question, reply)) = any_question(story, mix, rng) else { continue };
        if asked.insert(question.clone()) {
            text = format!("{} {reply}", prompt(&text, &question));
        }
    }
    text
}

/// A scene and questions about its details, no two alike.
fn with_details(scene: &Scene, mix: &Mix, rng: &mut Rng) -> String {
    let (fewest, most) = mix.questions;
    let wanted = rng.between(fewest, most);
    let mut asked = HashSet::new();
    let mut text = scene.passage.clone();
    while asked.len() < wanted {
        let (question, reply) = if rng.chance(mix.open_percent) {
            scene.ask_open(rng)
        } else {
            let answer = rng.chance(50);
            (scene.ask(answer, rng), if answer { "yes" } else { "no" }.to_owned())
        };
        if asked.insert(question.clone()) {
            text = format!("{} {reply}", prompt(&text, &question));
        }
    }
    text
}

/// A question and its reply.
fn any_question(story: &Story, mix: &Mix, rng: &mut Rng) -> Option<(String, String)> {
    let kind = rng.weighted(story.theme.kinds())?;
    if rng.chance(mix.open_percent) {
        let OpenQuestion { text, reply } = OpenQuestion::ask(story, kind, rng)?;
        return Some((text, reply));
    }
    let answer = rng.chance(50);
    let question = Question::ask(story, kind, answer, rng)?;
    Some((question.text, if question.answer { "yes" } else { "no" }.to_owned()))
}

/// The story and a line of what holds at its end, in random order.
pub(crate) fn with_recap(story: &Story, rng: &mut Rng) -> String {
    let world = &story.world;
    let mut facts = Vec::new();
    for actor in world.actors() {
        facts.extend(world.place_of(actor).map(|at| format!("{} is in the {}.", actor.name(), at.name())));
        facts.extend(world.feeling_of(actor).map(|now| format!("{} is {}.", actor.name(), now.name())));
    }
    for object in world.objects() {
        facts.extend(world.holder_of(object).map(|who| format!("{} has the {}.", who.name(), object.name())));
        facts.extend(
            world.place_of_object(object).map(|at| format!("the {} is in the {}.", object.name(), at.name())),
        );
    }
    rng.shuffle(&mut facts);
    format!("{}\nIn the end: {}", story.passage, facts.join(" "))
}
