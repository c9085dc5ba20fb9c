//! Tells a story: draws what happens, keeps the world up to date, and puts each event into words.

use crate::mix::{Happening, Mix, Theme};
use crate::partition::Split;
use crate::rng::Rng;
use crate::sentence::{Manner, render};
use crate::words::{Actor, Feeling, Object, Place};
use crate::world::{Event, Idle, World};

/// A finished story: its text (one paragraph), what it is about, and what is true at its end.
#[derive(Clone, Debug)]
pub(crate) struct Story {
    pub(crate) passage: String,
    pub(crate) theme: Theme,
    pub(crate) world: World,
}

impl Story {
    /// Tells stories until one belongs to `split`.
    pub(crate) fn tell(mix: &Mix, split: Split, rng: &mut Rng) -> Self {
        loop {
            let length = length(mix, split, rng);
            let story = Teller::new(mix, rng).tell(length);
            if Split::of(&story.passage) == split {
                return story;
            }
        }
    }
}

/// A story under way.
struct Teller<'a> {
    mix: &'a Mix,
    rng: &'a mut Rng,
    theme: Theme,
    /// Those who have not appeared so far.
    waiting: Vec<Actor>,
    places: Vec<Place>,
    objects: Vec<Object>,
    world: World,
    sentences: Vec<String>,
    /// The one that the sentence before was about, where a pronoun would be clear.
    subject: Option<Actor>,
}

/// How many events a story of this split has; in training the shorter of two draws.
fn length(mix: &Mix, split: Split, rng: &mut Rng) -> usize {
    let (fewest, most) = mix.events(split);
    let drawn = rng.between(fewest, most);
    match split {
        Split::Training => drawn.min(rng.between(fewest, most)),
        Split::Evaluation => drawn,
    }
}

/// `count` different members of `all`.
fn sample<T>(mut all: Vec<T>, count: usize, rng: &mut Rng) -> Vec<T> {
    rng.shuffle(&mut all);
    all.truncate(count);
    all
}

fn cast(mix: &Mix, rng: &mut Rng) -> Vec<Actor> {
    let count = rng.weighted(mix.people).unwrap_or_default();
    let mut actors = sample(Actor::people(), count, rng);
    if rng.chance(mix.animal_percent) {
        actors.extend(rng.pick(&Actor::animals()));
        rng.shuffle(&mut actors);
    }
    actors
}

fn things(mix: &Mix, rng: &mut Rng) -> Vec<Object> {
    let count = rng.weighted(mix.objects).unwrap_or_default();
    let mut objects = sample(Object::all(), count, rng);
    if objects.len() > 1 && rng.chance(mix.twin_percent) {
        let twins: Vec<Object> = Object::all().into_iter().filter(|twin| twin.is_twin(objects[0])).collect();
        objects[1] = rng.pick(&twins).unwrap_or(objects[1]);
    }
    objects.sort_unstable();
    objects.dedup();
    objects
}

impl<'a> Teller<'a> {
    fn new(mix: &'a Mix, rng: &'a mut Rng) -> Self {
        let theme = rng.weighted(mix.themes).unwrap_or(Theme::Moves);
        let waiting = cast(mix, rng);
        let place_count = rng.weighted(mix.places).unwrap_or_default();
        let places = sample(Place::all(), place_count, rng);
        let objects = things(mix, rng);
        Self {
            mix,
            rng,
            theme,
            waiting,
            places,
            objects,
            world: World::default(),
            sentences: Vec::new(),
            subject: None,
        }
    }

    /// Tells `events` events, or as many as all need to appear, after an opening that names nobody: so every
    /// name has a space before it, and is the same token wherever it stands.
    fn tell(mut self, events: usize) -> Story {
        let events = events.max(self.waiting.len());
        self.say(&Event::Idle(Idle::Scene));
        for told in 0..events {
            let event = self.next_event(events - told);
            self.say(&event);
        }
        Story { passage: self.sentences.join(" "), theme: self.theme, world: self.world }
    }

    /// The next event, with `left` sentences to come, this one included: all who wait must still appear.
    fn next_event(&mut self, left: usize) -> Event {
        let must = self.waiting.len() >= left || self.world.actors().is_empty();
        if !self.waiting.is_empty() && (must || self.rng.chance(50)) {
            return self.enter();
        }
        loop {
            let happening = self.rng.weighted(self.theme.happenings()).unwrap_or(Happening::Move);
            if let Some(event) = self.propose(happening) {
                return event;
            }
        }
    }

    fn say(&mut self, event: &Event) {
        let manner = Manner {
            pronoun: self.goes_on(event) && self.rng.chance(self.mix.pronoun_percent),
            then: !self.sentences.is_empty() && self.rng.chance(self.mix.then_percent),
        };
        let (sentence, subject) = render(event, manner, self.rng);
        self.sentences.push(sentence);
        // after a gift, and after waving, `He` could be either of the two
        let two = matches!(event, Event::Give { .. } | Event::Idle(Idle::Wave(..)));
        self.subject = if two { None } else { subject };
        self.world.apply(event);
    }

    /// Whether `event` is about the same one as the sentence before.
    fn goes_on(&self, event: &Event) -> bool {
        let who = match event {
            Event::Arrive { actors, .. } if actors.len() == 1 => actors[0],
            Event::Take { who, .. } | Event::Drop { who, .. } | Event::Feel { who, .. } => *who,
            Event::Give { from, .. } => *from,
            Event::Idle(Idle::Act(who) | Idle::Recall(who, _) | Idle::Like(who, _) | Idle::Wave(who, _)) => {
                *who
            }
            _ => return false,
        };
        self.subject == Some(who)
    }

    fn enter(&mut self) -> Event {
        let actors = if self.waiting.len() > 1 && self.rng.chance(12) {
            vec![self.waiting.remove(0), self.waiting.remove(0)]
        } else {
            vec![self.waiting.remove(0)]
        };
        let place = self.rng.pick(&self.places).unwrap_or(Place::all()[0]);
        Event::Arrive { actors, place }
    }

    /// An event of this sort, if one is possible now.
    fn propose(&mut self, happening: Happening) -> Option<Event> {
        match happening {
            Happening::Move => self.propose_move(),
            Happening::JointMove => self.propose_joint_move(),
            Happening::Take => self.propose_take(),
            Happening::Give => self.propose_give(),
            Happening::Drop => self.propose_drop(),
            Happening::Feel => self.propose_feeling(),
            Happening::Set => self.propose_set(),
            Happening::Idle => self.propose_idle(),
        }
    }

    fn somebody(&mut self) -> Option<Actor> {
        let people = self.world.people();
        self.rng.pick(&people)
    }

    fn propose_move(&mut self) -> Option<Event> {
        let actors = self.world.actors();
        let actor = self.rng.pick(&actors)?;
        let here = self.world.place_of(actor);
        let company: Vec<Place> = actors
            .iter()
            .filter_map(|&other| self.world.place_of(other))
            .filter(|&at| Some(at) != here)
            .collect();
        let elsewhere: Vec<Place> = self.places.iter().copied().filter(|&at| Some(at) != here).collect();
        let meets = !company.is_empty() && self.rng.chance(self.mix.meet_percent);
        let place = self.rng.pick(if meets { &company } else { &elsewhere })?;
        Some(Event::Arrive { actors: vec![actor], place })
    }

    fn propose_joint_move(&mut self) -> Option<Event> {
        let (first, second) = self.pair_together()?;
        let here = self.world.place_of(first);
        let elsewhere: Vec<Place> = self.places.iter().copied().filter(|&at| Some(at) != here).collect();
        let place = self.rng.pick(&elsewhere)?;
        Some(Event::Arrive { actors: vec![first, second], place })
    }

    /// Two people in the same place, in either order.
    fn pair_together(&mut self) -> Option<(Actor, Actor)> {
        let first = self.somebody()?;
        let others = self.people_with(first);
        Some((first, self.rng.pick(&others)?))
    }

    fn people_with(&self, who: Actor) -> Vec<Actor> {
        let here = self.world.place_of(who);
        let people = self.world.people().into_iter();
        people.filter(|&other| other != who && self.world.place_of(other) == here).collect()
    }

    fn propose_take(&mut self) -> Option<Event> {
        let who = self.somebody()?;
        let here = self.world.place_of(who);
        let within_reach: Vec<Object> = self
            .objects
            .iter()
            .copied()
            .filter(|&object| self.world.holder_of(object).is_none())
            .filter(|&object| self.world.place_of_object(object).is_none_or(|place| Some(place) == here))
            .collect();
        Some(Event::Take { who, object: self.rng.pick(&within_reach)? })
    }

    /// A thing that somebody has, and who has it.
    fn held(&mut self) -> Option<(Actor, Object)> {
        let world = &self.world;
        let held: Vec<(Actor, Object)> =
            self.objects.iter().filter_map(|&object| Some((world.holder_of(object)?, object))).collect();
        self.rng.pick(&held)
    }

    fn propose_give(&mut self) -> Option<Event> {
        let (from, object) = self.held()?;
        let others = self.people_with(from);
        Some(Event::Give { from, object, to: self.rng.pick(&others)? })
    }

    fn propose_drop(&mut self) -> Option<Event> {
        let (who, object) = self.held()?;
        Some(Event::Drop { who, object })
    }

    fn propose_feeling(&mut self) -> Option<Event> {
        let who = self.somebody()?;
        let now = self.world.feeling_of(who);
        let others: Vec<Feeling> =
            Feeling::all().into_iter().filter(|&feeling| Some(feeling) != now).collect();
        Some(Event::Feel { who, feeling: self.rng.pick(&others)? })
    }

    fn propose_set(&mut self) -> Option<Event> {
        let unplaced: Vec<Object> = self
            .objects
            .iter()
            .copied()
            .filter(|&object| self.world.place_of_object(object).is_none())
            .collect();
        let object = self.rng.pick(&unplaced)?;
        Some(Event::Set { object, place: self.rng.pick(&self.places)? })
    }

    fn propose_idle(&mut self) -> Option<Event> {
        let who = self.somebody()?;
        let idle = match self.rng.below(5) {
            0 => Idle::Scene,
            1 => Idle::Act(who),
            2 => Idle::Recall(who, self.rng.pick(&self.places)?),
            3 => Idle::Like(who, self.rng.pick(&self.objects)?),
            _ => {
                let others: Vec<Actor> =
                    self.world.people().into_iter().filter(|&other| other != who).collect();
                Idle::Wave(who, self.rng.pick(&others)?)
            }
        };
        Some(Event::Idle(idle))
    }
}
