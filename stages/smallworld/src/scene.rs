//! Scenes: the easy and larger part of the small world. A scene tells three or four plain facts of six sorts, each at
//! most once and in any order: the weather, the time of day, where the one person is, what they have, which animal is
//! there, how they feel. Nothing changes while it is told. A question names one told fact, right or wrong, so its
//! answer needs two words to be found and compared, where a story's needs the last of several.
//!
//! The wrong word of a wrong question is never in the scene, since no other fact has words of its sort: whether the
//! question's last words occur decides the answer, without a thought of what the scene means. (The one wrong word about
//! a thing is its colour.) That is what makes a scene easy; a story's wrong questions name what the story names.

use crate::partition::Split;
use crate::rng::Rng;
use crate::words::{Actor, COLOURS, FEELINGS, NOUNS, PLACES};

const WEATHER: [&str; 5] = ["raining", "snowing", "windy", "warm", "cold"];
const TIMES: [&str; 4] = ["morning", "noon", "evening", "night"];
const CREATURES: [&str; 6] = ["fox", "bird", "horse", "mouse", "frog", "cow"];

/// A told scene: its text, and its facts.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) passage: String,
    facts: Facts,
    /// The facts that are told.
    told: Vec<Fact>,
}

/// The sorts of facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fact {
    Weather,
    Time,
    Place,
    Thing,
    Creature,
    Feeling,
}

const FACTS: [Fact; 6] = [Fact::Weather, Fact::Time, Fact::Place, Fact::Thing, Fact::Creature, Fact::Feeling];

/// Fewest and most facts of a scene.
const TOLD: (usize, usize) = (3, 4);

/// Indices into the lists of words, for every fact whether told or not.
#[derive(Clone, Copy, Debug)]
struct Facts {
    weather: usize,
    time: usize,
    who: usize,
    place: usize,
    colour: usize,
    noun: usize,
    creature: usize,
    feeling: usize,
}

impl Scene {
    /// A new scene of this split.
    pub(crate) fn tell(split: Split, rng: &mut Rng) -> Self {
        loop {
            let facts = Facts::draw(rng);
            let mut told = FACTS.to_vec();
            rng.shuffle(&mut told);
            told.truncate(rng.between(TOLD.0, TOLD.1));
            let sentences: Vec<String> = told.iter().map(|fact| facts.sentence(*fact, rng)).collect();
            let passage = sentences.join(" ");
            if Split::of(&passage) == split {
                return Self { passage, facts, told };
            }
        }
    }

    /// A question about one fact. The wrong word of a wrong question is any other of its list.
    pub(crate) fn ask(&self, answer: bool, rng: &mut Rng) -> String {
        let other = rng.next_u64();
        let word = |of: usize, count: usize| {
            if answer { of } else { (of + 1 + (other % (count as u64 - 1)) as usize) % count }
        };
        let f = &self.facts;
        let who = person(f.who);
        match self.told[rng.below(self.told.len())] {
            Fact::Weather => format!("is it {}", WEATHER[word(f.weather, WEATHER.len())]),
            Fact::Time => format!("is it {}", TIMES[word(f.time, TIMES.len())]),
            Fact::Place => format!("is {who} in the {}", PLACES[word(f.place, PLACES.len())]),
            Fact::Thing => {
                format!("does {who} have the {} {}", COLOURS[word(f.colour, COLOURS.len())], NOUNS[f.noun])
            }
            Fact::Creature => format!("is there a {}", CREATURES[word(f.creature, CREATURES.len())]),
            Fact::Feeling => format!("is {who} {}", FEELINGS[word(f.feeling, FEELINGS.len())]),
        }
    }

    /// A question that asks for one fact, and its reply. A reply of one word out of several teaches to find it,
    /// where yes or no alone teaches one bit and only once both words are found.
    pub(crate) fn ask_open(&self, rng: &mut Rng) -> (String, String) {
        let f = &self.facts;
        let who = person(f.who);
        match self.told[rng.below(self.told.len())] {
            Fact::Weather => ("how is the weather".to_owned(), WEATHER[f.weather].to_owned()),
            Fact::Time => ("what time is it".to_owned(), TIMES[f.time].to_owned()),
            Fact::Place => (format!("what place is {who} in"), PLACES[f.place].to_owned()),
            Fact::Thing => (format!("which {} does {who} have", NOUNS[f.noun]), COLOURS[f.colour].to_owned()),
            Fact::Creature => ("which animal is there".to_owned(), CREATURES[f.creature].to_owned()),
            Fact::Feeling => (format!("how is {who}"), FEELINGS[f.feeling].to_owned()),
        }
    }
}

impl Facts {
    fn draw(rng: &mut Rng) -> Self {
        Self {
            weather: rng.below(WEATHER.len()),
            time: rng.below(TIMES.len()),
            who: rng.below(people()),
            place: rng.below(PLACES.len()),
            colour: rng.below(COLOURS.len()),
            noun: rng.below(NOUNS.len()),
            creature: rng.below(CREATURES.len()),
            feeling: rng.below(FEELINGS.len()),
        }
    }

    fn sentence(&self, fact: Fact, rng: &mut Rng) -> String {
        let mut pick = |words: [&'static str; 3]| words[rng.below(3)];
        let who = person(self.who);
        match fact {
            Fact::Weather => format!("It is {}.", WEATHER[self.weather]),
            Fact::Time => format!("It is {}.", TIMES[self.time]),
            Fact::Place => {
                format!("{who} {} the {}.", pick(["is in", "goes to", "walks to"]), PLACES[self.place])
            }
            Fact::Thing => {
                format!(
                    "{who} {} the {} {}.",
                    pick(["has", "takes", "gets"]),
                    COLOURS[self.colour],
                    NOUNS[self.noun]
                )
            }
            Fact::Creature => {
                format!(
                    "{} {}.",
                    pick(["There is a", "Here comes a", "Then comes a"]),
                    CREATURES[self.creature]
                )
            }
            Fact::Feeling => format!("{who} {} {}.", pick(["is", "feels", "is"]), FEELINGS[self.feeling]),
        }
    }
}

fn people() -> usize {
    Actor::people().len()
}

fn person(index: usize) -> String {
    Actor::people()[index].name()
}
