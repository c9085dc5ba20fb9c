//! One event into one short English sentence, with some variety in its verbs.

use crate::rng::Rng;
use crate::words::Actor;
use crate::world::{Event, Idle};

/// Verbs of one actor, and of two.
const MOVES: [(&str, &str); 4] =
    [("goes to", "go to"), ("walks to", "walk to"), ("runs to", "run to"), ("is in", "are in")];
const TAKES: [&str; 3] = ["takes", "grabs", "gets"];
const GIVES: [&str; 2] = ["gives", "hands"];
const DROPS: [&str; 2] = ["drops", "leaves"];
const FEELS: [&str; 2] = ["is", "feels"];
const SCENES: [&str; 4] = ["It is late.", "It is warm.", "It is cold.", "It rains."];
const ACTS: [&str; 2] = ["sings.", "sits."];

/// A sentence before it is put into words: who it is about, and the rest.
struct Clause {
    subject: Option<Actor>,
    start: String,
    rest: String,
}

/// How a sentence may differ from its plain form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manner {
    /// Say `He`, `She` or `It` for the one the sentence before was about.
    pub(crate) pronoun: bool,
    /// Open with `Then`.
    pub(crate) then: bool,
}

fn one_of(words: &[&'static str], rng: &mut Rng) -> &'static str {
    rng.pick(words).unwrap_or_default()
}

fn clause(event: &Event, rng: &mut Rng) -> Clause {
    let of = |who: &Actor, rest: String| Clause { subject: Some(*who), start: who.name(), rest };
    match event {
        Event::Arrive { actors, place } => arrival(actors, place.name(), rng),
        Event::Take { who, object } => of(who, format!("{} the {}.", one_of(&TAKES, rng), object.name())),
        Event::Give { from, object, to } => {
            of(from, format!("{} the {} to {}.", one_of(&GIVES, rng), object.name(), to.name()))
        }
        Event::Drop { who, object } => of(who, format!("{} the {}.", one_of(&DROPS, rng), object.name())),
        Event::Feel { who, feeling } => of(who, format!("{} {}.", one_of(&FEELS, rng), feeling.name())),
        Event::Set { object, place } => Clause {
            subject: None,
            start: format!("the {}", object.name()),
            rest: format!("is in the {}.", place.name()),
        },
        Event::Idle(Idle::Scene) => {
            Clause { subject: None, start: String::new(), rest: one_of(&SCENES, rng).to_owned() }
        }
        Event::Idle(Idle::Act(who)) => of(who, one_of(&ACTS, rng).to_owned()),
        Event::Idle(Idle::Recall(who, place)) => of(who, format!("thinks about the {}.", place.name())),
        Event::Idle(Idle::Like(who, object)) => of(who, format!("likes the {}.", object.name())),
        Event::Idle(Idle::Wave(who, whom)) => of(who, format!("waves at {}.", whom.name())),
    }
}

fn arrival(actors: &[Actor], place: &str, rng: &mut Rng) -> Clause {
    let (single, plural) = rng.pick(&MOVES).unwrap_or_default();
    match actors {
        [alone] => {
            Clause { subject: Some(*alone), start: alone.name(), rest: format!("{single} the {place}.") }
        }
        many => Clause {
            subject: None,
            start: many.iter().map(|actor| actor.name()).collect::<Vec<_>>().join(" and "),
            rest: format!("{plural} the {place}."),
        },
    }
}

fn capitalize(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Puts `event` into words; returns the sentence and the one it is about, if it is about one alone.
pub(crate) fn render(event: &Event, manner: Manner, rng: &mut Rng) -> (String, Option<Actor>) {
    let Clause { subject, start, rest } = clause(event, rng);
    if start.is_empty() {
        return (rest, subject);
    }
    let start = match subject {
        Some(actor) if manner.pronoun => actor.pronoun().word().to_owned(),
        _ => start,
    };
    let start = match (manner.then, manner.pronoun) {
        (true, true) => format!("Then {}", start.to_lowercase()),
        (true, false) => format!("Then {start}"),
        (false, _) => capitalize(&start),
    };
    (format!("{start} {rest}"), subject)
}
