//! Everything that a story can name: the whole vocabulary of the world, in tables.
//!
//! A member is an index into its table, so a world compares and orders without strings. Appending to a table
//! changes every text (draws are over the table's length): then the golden hash changes too, on purpose.

/// Which pronoun stands for a person or an animal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pronoun {
    /// `He`
    He,
    /// `She`
    She,
    /// `It`
    It,
}

impl Pronoun {
    /// The word that opens a sentence.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::He => "He",
            Self::She => "She",
            Self::It => "It",
        }
    }
}

const PEOPLE: [(&str, Pronoun); 12] = [
    ("Tom", Pronoun::He),
    ("Mia", Pronoun::She),
    ("Ben", Pronoun::He),
    ("Anna", Pronoun::She),
    ("Sam", Pronoun::He),
    ("Lily", Pronoun::She),
    ("Max", Pronoun::He),
    ("Emma", Pronoun::She),
    ("Jack", Pronoun::He),
    ("Rosa", Pronoun::She),
    ("Leo", Pronoun::He),
    ("Nina", Pronoun::She),
];
const ANIMALS: [&str; 3] = ["dog", "cat", "duck"];
pub(crate) const PLACES: [&str; 8] =
    ["kitchen", "garden", "park", "school", "bedroom", "shop", "barn", "forest"];
pub(crate) const NOUNS: [&str; 10] =
    ["ball", "book", "cup", "hat", "key", "apple", "box", "doll", "kite", "lamp"];
pub(crate) const COLOURS: [&str; 6] = ["red", "blue", "green", "yellow", "black", "white"];
pub(crate) const FEELINGS: [&str; 5] = ["happy", "sad", "tired", "hungry", "angry"];

/// One who moves about: a person, or an animal, which carries and feels nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Actor {
    /// A person, by index.
    Person(u8),
    /// An animal, by index.
    Animal(u8),
}

impl Actor {
    /// Every person of the world.
    pub(crate) fn people() -> Vec<Self> {
        (0..PEOPLE.len() as u8).map(Self::Person).collect()
    }

    /// Every animal of the world.
    pub(crate) fn animals() -> Vec<Self> {
        (0..ANIMALS.len() as u8).map(Self::Animal).collect()
    }

    /// Whether this one can carry and feel.
    pub(crate) fn is_person(self) -> bool {
        matches!(self, Self::Person(_))
    }

    /// The name inside a sentence: `Tom`, `the dog`.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Person(index) => PEOPLE[index as usize].0.to_owned(),
            Self::Animal(index) => format!("the {}", ANIMALS[index as usize]),
        }
    }

    /// The word that stands for this one in the sentence after its own.
    pub(crate) fn pronoun(self) -> Pronoun {
        match self {
            Self::Person(index) => PEOPLE[index as usize].1,
            Self::Animal(_) => Pronoun::It,
        }
    }
}

/// A place, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(u8);

impl Place {
    /// Every place of the world.
    pub(crate) fn all() -> Vec<Self> {
        (0..PLACES.len() as u8).map(Self).collect()
    }

    /// The bare noun, `kitchen`.
    pub(crate) fn name(self) -> &'static str {
        PLACES[self.0 as usize]
    }
}

/// A thing that can be carried, known by its colour and its noun together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Object {
    noun: u8,
    colour: u8,
}

impl Object {
    /// Every pair of a noun and a colour.
    pub(crate) fn all() -> Vec<Self> {
        let colours = 0..COLOURS.len() as u8;
        (0..NOUNS.len() as u8)
            .flat_map(|noun| colours.clone().map(move |colour| Self { noun, colour }))
            .collect()
    }

    /// Whether the two differ in colour alone.
    pub(crate) fn is_twin(self, other: Self) -> bool {
        self.noun == other.noun && self.colour != other.colour
    }

    /// `red ball`, without an article.
    pub(crate) fn name(self) -> String {
        format!("{} {}", COLOURS[self.colour as usize], NOUNS[self.noun as usize])
    }
}

/// A feeling, by index. A person has one at a time: the last told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Feeling(u8);

impl Feeling {
    /// Every feeling.
    pub(crate) fn all() -> Vec<Self> {
        (0..FEELINGS.len() as u8).map(Self).collect()
    }

    /// The adjective, `happy`.
    pub(crate) fn name(self) -> &'static str {
        FEELINGS[self.0 as usize]
    }
}
