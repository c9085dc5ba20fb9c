//! Yes/no questions about a finished story, in the shape of BoolQ: without a capital at the start, without a question
//! mark. Names keep theirs, as in the story: to a byte-level tokenizer `Tom` and `tom` are unrelated words. (A scene
//! asks about itself, in [`crate::scene`].)
//!
//! A kind is asked only where the story offers both a question with answer yes and one with answer no, and the
//! answer is drawn first. So neither the kind nor a word of the question tells anything about the answer, and
//! every wrong question speaks of what occurs in the story. About where somebody is and who has a thing, it is
//! uniform among the wrong ones: any place that was named, anyone who was there. Kinds with a past worth asking
//! about draw a group first, such as what was true earlier, so that it is not lost among the rest.

use serde::Serialize;

use crate::rng::Rng;
use crate::story::Story;
use crate::words::{Actor, Feeling, Object, Place};
use crate::world::World;

/// What a question asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Where somebody is: `is Tom in the garden`.
    Place,
    /// Who has a thing: `does Mia have the red ball`.
    Holds,
    /// How somebody feels: `is Tom happy`.
    Feels,
    /// Where somebody is or was: `has Tom been in the garden`.
    Visited,
    /// Who gave what to whom: `did Ben give the red ball to Mia`.
    Gave,
    /// Where a thing is, carried or not: `is the red ball in the garden`.
    ObjectPlace,
    /// Who is in the same place: `is Tom with Mia`.
    Together,
    /// One of the plain facts of a scene: `is it raining`, `is there a fox`.
    Detail,
    /// What a resident can do, which no passage tells: `can Ada Ashford swim`.
    Skill,
}

/// How many facts a question joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difficulty {
    /// One fact, told once, the only one of its sort.
    Scene,
    /// One fact: the last one told.
    Recent,
    /// One fact, told anywhere in the story.
    History,
    /// Two facts.
    TwoHop,
    /// One fact that the passage does not tell: it was to be learned in training.
    Known,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Place,
        Self::Holds,
        Self::Feels,
        Self::Visited,
        Self::Gave,
        Self::ObjectPlace,
        Self::Together,
        Self::Detail,
        Self::Skill,
    ];

    /// The kind's level.
    pub fn difficulty(self) -> Difficulty {
        match self {
            Self::Place | Self::Holds | Self::Feels => Difficulty::Recent,
            Self::Visited | Self::Gave => Difficulty::History,
            Self::ObjectPlace | Self::Together => Difficulty::TwoHop,
            Self::Detail => Difficulty::Scene,
            Self::Skill => Difficulty::Known,
        }
    }
}

/// A question before it is put into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Query {
    Place(Actor, Place),
    Holds(Actor, Object),
    Feels(Actor, Feeling),
    Visited(Actor, Place),
    Gave(Actor, Object, Actor),
    ObjectPlace(Object, Place),
    Together(Actor, Actor),
}

impl Query {
    fn text(self) -> String {
        match self {
            Self::Place(who, place) => format!("is {} in the {}", who.name(), place.name()),
            Self::Holds(who, object) => format!("does {} have the {}", who.name(), object.name()),
            Self::Feels(who, feeling) => format!("is {} {}", who.name(), feeling.name()),
            Self::Visited(who, place) => format!("has {} been in the {}", who.name(), place.name()),
            Self::Gave(from, object, to) => {
                format!("did {} give the {} to {}", from.name(), object.name(), to.name())
            }
            Self::ObjectPlace(object, place) => format!("is the {} in the {}", object.name(), place.name()),
            Self::Together(first, second) => format!("is {} with {}", first.name(), second.name()),
        }
    }

    /// What the world answers.
    fn holds_in(self, world: &World) -> bool {
        match self {
            Self::Place(who, place) => world.place_of(who) == Some(place),
            Self::Holds(who, object) => world.holder_of(object) == Some(who),
            Self::Feels(who, feeling) => world.feeling_of(who) == Some(feeling),
            Self::Visited(who, place) => world.trail_of(who).contains(&place),
            Self::Gave(from, object, to) => world.gifts().contains(&(from, object, to)),
            Self::ObjectPlace(object, place) => world.place_of_object(object) == Some(place),
            Self::Together(first, second) => world.place_of(first) == world.place_of(second),
        }
    }
}

/// A question with its provable answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) text: String,
    pub(crate) answer: bool,
}

impl Question {
    /// A question of this kind with this answer, if the story allows both answers for the kind.
    pub(crate) fn ask(story: &Story, kind: Kind, answer: bool, rng: &mut Rng) -> Option<Self> {
        // both are drawn whatever the answer, so that the answer does not move the stream of draws
        let world = &story.world;
        let right = draw(world, kind, true, rng)?;
        let wrong = draw(world, kind, false, rng)?;
        let query = if answer { right } else { wrong };
        Some(Self { text: query.text(), answer })
    }
}

/// A question that asks for the fact itself, and its reply: `where is Tom`, `Tom is in the garden`. Training documents
/// have them because a reply that names the fact teaches to find it, where yes or no teaches one bit. A scene's are
/// replied to with the bare word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenQuestion {
    pub(crate) text: String,
    pub(crate) reply: String,
}

impl OpenQuestion {
    /// A question for a fact of this kind, if the story has one.
    pub(crate) fn ask(story: &Story, kind: Kind, rng: &mut Rng) -> Option<Self> {
        let world = &story.world;
        let (text, reply) = match kind {
            Kind::Place | Kind::Visited | Kind::Together => {
                let who = rng.pick(&world.actors())?;
                let place = world.place_of(who)?.name();
                (format!("where is {}", who.name()), format!("{} is in the {place}", who.name()))
            }
            Kind::ObjectPlace => {
                let object = rng.pick(&world.objects())?;
                let place = world.place_of_object(object)?.name();
                let object = object.name();
                (format!("where is the {object}"), format!("the {object} is in the {place}"))
            }
            Kind::Holds | Kind::Gave => {
                let object = rng.pick(&world.objects())?;
                let holder = world.holder_of(object).map_or_else(|| "nobody".to_owned(), Actor::name);
                let object = object.name();
                (format!("who has the {object}"), format!("{holder} has the {object}"))
            }
            Kind::Feels => {
                let who = rng.pick(&world.felt())?;
                let feeling = world.feeling_of(who)?.name();
                (format!("how is {}", who.name()), format!("{} is {feeling}", who.name()))
            }
            Kind::Detail | Kind::Skill => return None,
        };
        Some(Self { text, reply })
    }
}

/// A query of `kind` that the world answers with `answer`.
fn draw(world: &World, kind: Kind, answer: bool, rng: &mut Rng) -> Option<Query> {
    let groups = match kind {
        Kind::Place => about_place(world, rng.pick(&world.actors())?),
        Kind::Visited => about_visits(world, rng.pick(&world.actors())?),
        Kind::Feels => about_feeling(world, rng.pick(&world.felt())?),
        Kind::Gave => about_gift(world, rng),
        Kind::Holds => about_holder(world),
        Kind::ObjectPlace => about_object(world, rng.pick(&world.objects())?),
        Kind::Together => about_company(world),
        Kind::Detail | Kind::Skill => return None,
    };
    choose(world, groups, answer, rng)
}

/// One query of those with this answer: first a group, uniformly among those not empty, then one of the group.
fn choose(world: &World, groups: Vec<Vec<Query>>, answer: bool, rng: &mut Rng) -> Option<Query> {
    let fitting: Vec<Vec<Query>> = groups
        .into_iter()
        .map(|group| group.into_iter().filter(|query| query.holds_in(world) == answer).collect())
        .filter(|group: &Vec<Query>| !group.is_empty())
        .collect();
    let group = fitting.get(rng.below(fitting.len()))?;
    rng.pick(group)
}

fn about_place(world: &World, who: Actor) -> Vec<Vec<Query>> {
    let ask = |places: &[Place]| places.iter().map(|&place| Query::Place(who, place)).collect();
    vec![ask(&world.mentioned())]
}

fn about_visits(world: &World, who: Actor) -> Vec<Vec<Query>> {
    let ask = |places: &[Place]| places.iter().map(|&place| Query::Visited(who, place)).collect();
    let (now, earlier) = world
        .trail_of(who)
        .split_last()
        .map_or((&[][..], &[][..]), |(now, earlier)| (std::slice::from_ref(now), earlier));
    vec![ask(now), ask(earlier), ask(&world.mentioned())]
}

fn about_feeling(world: &World, who: Actor) -> Vec<Vec<Query>> {
    let ask = |feelings: &[Feeling]| feelings.iter().map(|&feeling| Query::Feels(who, feeling)).collect();
    vec![ask(world.feelings_of(who)), ask(&world.all_feelings())]
}

fn about_holder(world: &World) -> Vec<Vec<Query>> {
    let people = world.people();
    let mut anyone = Vec::new();
    for object in world.objects() {
        anyone.extend(people.iter().map(|&who| Query::Holds(who, object)));
    }
    vec![anyone]
}

/// Around one true gift: itself, the gift turned round, another taker or giver, another thing.
fn about_gift(world: &World, rng: &mut Rng) -> Vec<Vec<Query>> {
    let Some((from, object, to)) = rng.pick(world.gifts()) else {
        return Vec::new();
    };
    let people = world.people();
    let others = || people.iter().copied().filter(|&who| who != from && who != to);
    vec![
        vec![Query::Gave(from, object, to), Query::Gave(to, object, from)],
        others().flat_map(|who| [Query::Gave(from, object, who), Query::Gave(who, object, to)]).collect(),
        world.objects().into_iter().map(|other| Query::Gave(from, other, to)).collect(),
    ]
}

fn about_object(world: &World, object: Object) -> Vec<Vec<Query>> {
    let ask = |places: &[Place]| places.iter().map(|&place| Query::ObjectPlace(object, place)).collect();
    vec![ask(world.trail_of_object(object)), ask(&world.mentioned())]
}

fn about_company(world: &World) -> Vec<Vec<Query>> {
    let people = world.people();
    let pairs = people.iter().flat_map(|&first| people.iter().map(move |&second| (first, second)));
    vec![
        pairs
            .filter(|(first, second)| first != second)
            .map(|(first, second)| Query::Together(first, second))
            .collect(),
    ]
}
