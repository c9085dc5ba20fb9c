//! The state of a story, kept while it is told, so that every question has an answer that can be proved.
//!
//! The world is closed: what was not told did not happen. Somebody is where they were last said to be or to go, a
//! carried thing is where its holder is, a thing put down stays there, and a person has the last feeling told.

use std::collections::{BTreeMap, BTreeSet};

use crate::words::{Actor, Feeling, Object, Place};

/// What one sentence says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// One or two are at a place from now on.
    Arrive { actors: Vec<Actor>, place: Place },
    /// A person takes a thing that lies where they are, or that was not placed so far.
    Take { who: Actor, object: Object },
    /// A person gives a thing to another in the same place.
    Give { from: Actor, object: Object, to: Actor },
    /// A person puts a thing down where they are.
    Drop { who: Actor, object: Object },
    /// A person feels so from now on.
    Feel { who: Actor, feeling: Feeling },
    /// A thing lies at a place at its first mention.
    Set { object: Object, place: Place },
    /// Nothing changes.
    Idle(Idle),
}

/// Sentences that change nothing; most name what questions ask about, so that a mention proves nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    /// Weather and birds.
    Scene,
    /// Somebody does something of no consequence.
    Act(Actor),
    /// A person thinks of a place without being there.
    Recall(Actor, Place),
    /// A person likes a thing without having it.
    Like(Actor, Object),
    /// A person waves at another without being with them.
    Wave(Actor, Actor),
}

/// One gift: who gave what to whom.
pub(crate) type Gift = (Actor, Object, Actor);

/// What is known after the sentences so far. A trail lists values in the order told; its last one holds now.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    places: BTreeMap<Actor, Vec<Place>>,
    object_places: BTreeMap<Object, Vec<Place>>,
    holders: BTreeMap<Object, Actor>,
    feelings: BTreeMap<Actor, Vec<Feeling>>,
    gifts: Vec<Gift>,
    mentioned: BTreeSet<Place>,
}

/// A trail of `map`, empty where nothing was told.
fn trail<'a, K: Ord, V>(map: &'a BTreeMap<K, Vec<V>>, key: &K) -> &'a [V] {
    map.get(key).map_or(&[], Vec::as_slice)
}

impl World {
    /// Adds what `event` says. The teller proposes only events that are possible in the present state.
    pub(crate) fn apply(&mut self, event: &Event) {
        match event {
            Event::Arrive { actors, place } => actors.iter().for_each(|&actor| self.arrive(actor, *place)),
            Event::Take { who, object } => self.hold(*object, *who),
            Event::Give { from, object, to } => {
                self.gifts.push((*from, *object, *to));
                self.hold(*object, *to);
            }
            Event::Drop { object, .. } => {
                self.holders.remove(object);
            }
            Event::Feel { who, feeling } => self.feelings.entry(*who).or_default().push(*feeling),
            Event::Set { object, place } => {
                self.mentioned.insert(*place);
                self.object_places.entry(*object).or_default().push(*place);
            }
            Event::Idle(Idle::Recall(_, place)) => {
                self.mentioned.insert(*place);
            }
            Event::Idle(_) => {}
        }
    }

    fn arrive(&mut self, actor: Actor, place: Place) {
        self.mentioned.insert(place);
        self.places.entry(actor).or_default().push(place);
        for object in self.carried_by(actor) {
            self.object_places.entry(object).or_default().push(place);
        }
    }

    fn hold(&mut self, object: Object, who: Actor) {
        self.holders.insert(object, who);
        if let Some(place) = self.place_of(who) {
            self.object_places.entry(object).or_default().push(place);
        }
    }

    /// Where `actor` is now.
    pub(crate) fn place_of(&self, actor: Actor) -> Option<Place> {
        self.trail_of(actor).last().copied()
    }

    /// Where `actor` has been, in order.
    pub(crate) fn trail_of(&self, actor: Actor) -> &[Place] {
        trail(&self.places, &actor)
    }

    /// Where `object` is now.
    pub(crate) fn place_of_object(&self, object: Object) -> Option<Place> {
        self.trail_of_object(object).last().copied()
    }

    /// Where `object` has been, in order.
    pub(crate) fn trail_of_object(&self, object: Object) -> &[Place] {
        trail(&self.object_places, &object)
    }

    /// Who has `object` now.
    pub(crate) fn holder_of(&self, object: Object) -> Option<Actor> {
        self.holders.get(&object).copied()
    }

    /// What `who` has now.
    pub(crate) fn carried_by(&self, who: Actor) -> Vec<Object> {
        self.holders.iter().filter(|held| *held.1 == who).map(|held| *held.0).collect()
    }

    /// How `who` feels now.
    pub(crate) fn feeling_of(&self, who: Actor) -> Option<Feeling> {
        self.feelings_of(who).last().copied()
    }

    /// How `who` has felt, in order.
    pub(crate) fn feelings_of(&self, who: Actor) -> &[Feeling] {
        trail(&self.feelings, &who)
    }

    /// Every gift, in order.
    pub(crate) fn gifts(&self) -> &[Gift] {
        &self.gifts
    }

    /// Everyone whose place is known.
    pub(crate) fn actors(&self) -> Vec<Actor> {
        self.places.keys().copied().collect()
    }

    /// Everyone whose place is known and who can carry and feel.
    pub(crate) fn people(&self) -> Vec<Actor> {
        self.places.keys().copied().filter(|actor| actor.is_person()).collect()
    }

    /// Everything whose place is known.
    pub(crate) fn objects(&self) -> Vec<Object> {
        self.object_places.keys().copied().collect()
    }

    /// Everyone whose feeling was told.
    pub(crate) fn felt(&self) -> Vec<Actor> {
        self.feelings.keys().copied().collect()
    }

    /// Every feeling told, of anyone, once each.
    pub(crate) fn all_feelings(&self) -> Vec<Feeling> {
        self.feelings.values().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Every place that was named.
    pub(crate) fn mentioned(&self) -> Vec<Place> {
        self.mentioned.iter().copied().collect()
    }
}
