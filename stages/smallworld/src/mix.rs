//! Every number that sets how hard the world is.
//!
//! The task must be within reach of a model of about a million weights, and must fill it. Two things decide. How soon
//! such a model learns to *find* a fact: a yes or no teaches one bit, and only after finding works; hence mostly scenes,
//! whose facts are told once and do not change ([`crate::scene`]), beside few stories, in which the last of several facts
//! counts; one question about each; and replies that name the fact beside those that say yes or no. (A first mix, of
//! long stories with every theme at once and yes/no questions alone, kept a Llama of 1.3 million weights at chance
//! through ninety million tokens.) And how much there is to *know*: without residents ([`crate::resident`]) 4 bits cost
//! such a model nothing that a study could find.
//!
//! A weight of zero, a percentage of zero, and a kind that no list names switch off what the world can tell but this
//! mix does not: pronouns, things that differ in colour alone, questions about visits, gifts, company and where a thing
//! is.
//!
//! Changing a number here changes every text, and the golden hash with it.

use crate::partition::Split;
use crate::question::Kind;
use crate::resident::NAMES;

/// What can happen in one sentence of a story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    Move,
    JointMove,
    Take,
    Give,
    Drop,
    Feel,
    Set,
    Idle,
}

/// What a training document about a story contains. (One about a scene always has questions.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A story, then questions with answers in the form of the evaluation prompt.
    Questions,
    /// A story, then a line of facts that hold at its end.
    Recap,
    /// A story alone.
    Plain,
}

/// What a story is about: which happenings it has, and what its training questions ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Theme {
    /// Who goes where, and nothing else of consequence.
    Moves,
    /// Things change hands and are carried about.
    Things,
    /// How people feel, between their walks.
    Feelings,
}

impl Theme {
    /// What happens in a sentence once somebody is there to do it.
    pub(crate) fn happenings(self) -> &'static [(Happening, u32)] {
        match self {
            Self::Moves => &[(Happening::Move, 88), (Happening::JointMove, 8), (Happening::Idle, 4)],
            Self::Things => &[
                (Happening::Move, 40),
                (Happening::JointMove, 4),
                (Happening::Take, 24),
                (Happening::Give, 24),
                (Happening::Drop, 8),
                (Happening::Feel, 4),
                (Happening::Set, 5),
                (Happening::Idle, 5),
            ],
            Self::Feelings => &[(Happening::Move, 40), (Happening::Feel, 55), (Happening::Idle, 5)],
        }
    }

    /// What training questions about such a story ask. (An evaluation item draws its kind first, and [`Kind::Detail`]
    /// is asked of scenes alone.)
    pub(crate) fn kinds(self) -> &'static [(Kind, u32)] {
        match self {
            Self::Moves => &[(Kind::Place, 1)],
            Self::Things => &[(Kind::Holds, 60), (Kind::Place, 40)],
            Self::Feelings => &[(Kind::Feels, 65), (Kind::Place, 35)],
        }
    }
}

/// The mix of stories, documents and questions. Weights are relative to their list; percentages are of 100.
#[derive(Clone, Debug)]
pub struct Mix {
    /// What a story is about.
    pub(crate) themes: &'static [(Theme, u32)],
    /// How many people a story has.
    pub(crate) people: &'static [(usize, u32)],
    /// How many places.
    pub(crate) places: &'static [(usize, u32)],
    /// How many things.
    pub(crate) objects: &'static [(usize, u32)],
    /// How often an animal is there too, in percent.
    pub(crate) animal_percent: u32,
    /// How often the second thing differs from the first in colour alone, in percent.
    pub(crate) twin_percent: u32,
    /// Fewest and most events of a story to train on; the shorter of two draws is taken.
    pub(crate) training_events: (usize, usize),
    /// Fewest and most events of a story to be measured on, beside the opening sentence.
    pub(crate) evaluation_events: (usize, usize),
    /// How often somebody goes where another is (so that things can change hands), in percent.
    pub(crate) meet_percent: u32,
    /// How often a sentence about the same one as before says `He`, `She` or `It`, in percent.
    pub(crate) pronoun_percent: u32,
    /// How often a sentence opens with `Then`, in percent.
    pub(crate) then_percent: u32,
    /// What an evaluation question asks.
    pub(crate) kinds: &'static [(Kind, u32)],
    /// How many training documents and held-out texts tell a scene instead of a story, in percent. (How many evaluation
    /// items do is the weight of [`Kind::Detail`] in `kinds`.)
    pub(crate) scene_percent: u32,
    /// How many training documents and held-out texts tell a resident's portrait, in percent. (How many evaluation items
    /// do is the weight of [`Kind::Skill`] in `kinds`.)
    pub(crate) portrait_percent: u32,
    /// How many residents the world has: the knowledge that a model is to hold.
    pub(crate) residents: usize,
    /// How many questions a portrait to train on has.
    pub(crate) portrait_questions: usize,
    /// What a training document about a story holds.
    pub(crate) shapes: &'static [(Shape, u32)],
    /// Fewest and most questions of a training document.
    pub(crate) questions: (usize, usize),
    /// How many questions of a training document ask for the fact itself, in percent.
    pub(crate) open_percent: u32,
    /// How many documents the tokenizer is trained on.
    pub(crate) tokenizer_documents: usize,
    /// How many residents those documents tell of: names are made of a first name and two halves, so a part of the
    /// residents has every word.
    pub(crate) tokenizer_residents: usize,
    /// Entries of the vocabulary: the 256 bytes, the end of text, and the merges that make every common word of the
    /// world one token; rare ones, mostly of stories, are two or three. A power of two.
    pub(crate) vocabulary: usize,
}

impl Mix {
    /// The same mix with another number of residents, 16,384 at most.
    #[must_use]
    pub fn with_residents(self, residents: usize) -> Self {
        Self { residents: residents.clamp(1, NAMES), ..self }
    }

    /// Fewest and most events of a story of this split.
    pub(crate) fn events(&self, split: Split) -> (usize, usize) {
        match split {
            Split::Training => self.training_events,
            Split::Evaluation => self.evaluation_events,
        }
    }
}

/// The one mix that the shipped model, corpus and evaluation set are made with.
pub const MIX: Mix = Mix {
    themes: &[(Theme::Moves, 48), (Theme::Things, 48), (Theme::Feelings, 4)],
    people: &[(2, 70), (3, 30)],
    places: &[(2, 35), (3, 65)],
    objects: &[(1, 60), (2, 40)],
    animal_percent: 3,
    twin_percent: 0,
    training_events: (2, 4),
    evaluation_events: (2, 4),
    meet_percent: 30,
    pronoun_percent: 0,
    then_percent: 5,
    kinds: &[(Kind::Skill, 50), (Kind::Detail, 42), (Kind::Place, 5), (Kind::Holds, 3)],
    scene_percent: 85,
    portrait_percent: 65,
    residents: 8_000,
    portrait_questions: 3,
    shapes: &[(Shape::Questions, 92), (Shape::Recap, 5), (Shape::Plain, 3)],
    questions: (1, 1),
    open_percent: 30,
    tokenizer_documents: 20_000,
    tokenizer_residents: 5_000,
    vocabulary: 1024,
};
