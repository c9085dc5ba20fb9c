//! Residents: the part of the small world that does not change and that no passage can tell whole. Every resident has
//! a name, a village, a trade, an animal and a dish they like, and can or cannot do each of a few things. A portrait
//! tells the first four; what somebody can do is only ever asked.
//!
//! Reading a scene needs a handful of weights to be right, and rounding all of them to four bits leaves it right.
//! Knowing tens of thousands of facts fills a model: there is no slack to round away (Allen-Zhu and Li 2024,
//! arXiv 2404.05405, find a capacity of about two bits a weight, and far less at four bits). So portraits are what
//! makes a scheme's cost visible: in the loss, since a portrait's words follow from the name, and in the questions,
//! since a reply must be known.
//!
//! A resident's facts depend on the resident alone, not on the seed of a corpus or of an evaluation set: it is one
//! world. What is held out is the passage, as everywhere.

use crate::mix::Mix;
use crate::partition::Split;
use crate::rng::Rng;

const FIRST: [&str; 64] = [
    "Ada", "Alma", "Amos", "Arlo", "Bea", "Bella", "Boris", "Bruno", "Cara", "Cleo", "Clara", "Cyrus",
    "Daisy", "Dana", "Dora", "Duncan", "Edith", "Ella", "Elmer", "Ezra", "Faye", "Fiona", "Felix", "Floyd",
    "Gina", "Greta", "Gavin", "Gus", "Hazel", "Helen", "Hector", "Hugo", "Ida", "Iris", "Ian", "Ivan",
    "Jane", "June", "Jasper", "Jonah", "Kara", "Kate", "Karl", "Kurt", "Lena", "Lucy", "Lars", "Luther",
    "Mabel", "Maud", "Miles", "Milo", "Nora", "Nell", "Ned", "Noah", "Olga", "Opal", "Oscar", "Otto",
    "Pearl", "Ruth", "Peter", "Rufus",
];
const HEADS: [&str; 16] = [
    "Ash", "Birch", "Clay", "Dun", "Elm", "Fern", "Green", "Hart", "Kirk", "Lang", "Marsh", "North", "Oak",
    "Red", "Stan", "Whit",
];
const TAILS: [&str; 16] = [
    "bury", "by", "croft", "dale", "field", "ford", "gate", "ham", "hurst", "ley", "more", "stead", "stone",
    "ton", "well", "wood",
];
const VILLAGES: [&str; 32] = [
    "Arden", "Barrow", "Cobham", "Dover", "Epsom", "Fowey", "Girton", "Hexham", "Ilford", "Jarrow", "Kendal",
    "Luton", "Malton", "Newark", "Oxted", "Penrith", "Ripon", "Selby", "Thirsk", "Ulver", "Verwood", "Wells",
    "Yarm", "Ambler", "Bude", "Crewe", "Diss", "Ely", "Frome", "Grays", "Hythe", "Looe",
];
const TRADES: [&str; 32] = [
    "baker",
    "barber",
    "brewer",
    "butcher",
    "carpenter",
    "clerk",
    "cobbler",
    "cooper",
    "dentist",
    "doctor",
    "farmer",
    "fiddler",
    "gardener",
    "glazier",
    "hunter",
    "jeweller",
    "judge",
    "lawyer",
    "mason",
    "miller",
    "miner",
    "nurse",
    "painter",
    "pilot",
    "plumber",
    "porter",
    "potter",
    "printer",
    "sailor",
    "shepherd",
    "smith",
    "tailor",
];
const ANIMALS: [&str; 32] = [
    "badger", "beaver", "camel", "canary", "chicken", "crow", "deer", "donkey", "dove", "falcon", "ferret",
    "goat", "goose", "hamster", "hare", "hedgehog", "lizard", "llama", "magpie", "mole", "mule", "newt",
    "parrot", "pig", "pony", "rabbit", "raven", "sheep", "snail", "swan", "toad", "turtle",
];
const DISHES: [&str; 32] = [
    "almonds", "bacon", "beans", "bread", "butter", "cabbage", "carrots", "cheese", "cherries", "figs",
    "fudge", "garlic", "ginger", "grapes", "honey", "jam", "leeks", "lemons", "melons", "mint", "nuts",
    "olives", "pears", "peas", "pepper", "plums", "porridge", "rice", "salmon", "soup", "toffee", "trout",
];
const SKILLS: [&str; 8] = ["climb", "dance", "juggle", "knit", "sail", "ski", "swim", "whistle"];

/// Names there are: every resident's is their own.
pub(crate) const NAMES: usize = FIRST.len() * HEADS.len() * TAILS.len();

/// What a portrait tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trait {
    Village,
    Trade,
    Animal,
    Dish,
}

const TRAITS: [Trait; 4] = [Trait::Village, Trait::Trade, Trait::Animal, Trait::Dish];

/// One resident: a number, from which everything else follows.
#[derive(Clone, Debug)]
pub(crate) struct Resident {
    first: usize,
    head: usize,
    tail: usize,
    traits: [usize; TRAITS.len()],
    skills: [bool; SKILLS.len()],
}

impl Resident {
    /// Resident `index` of the world, below [`NAMES`].
    pub(crate) fn of(index: usize) -> Self {
        // an odd factor permutes the residues of a power of two: neighbours have nothing in common, and no two are alike
        let name = index.wrapping_mul(10_007) % NAMES;
        let mut rng = Rng::new(index as u64, "resident");
        Self {
            first: name % FIRST.len(),
            head: name / FIRST.len() % HEADS.len(),
            tail: name / FIRST.len() / HEADS.len(),
            traits: std::array::from_fn(|_| rng.below(32)),
            skills: std::array::from_fn(|_| rng.chance(50)),
        }
    }

    /// `Ada Ashford`
    pub(crate) fn name(&self) -> String {
        format!("{} {}{}", FIRST[self.first], HEADS[self.head], TAILS[self.tail])
    }

    /// `She` of the first two of every four first names, `He` of the others.
    fn pronoun(&self) -> &'static str {
        if self.first % 4 < 2 { "She" } else { "He" }
    }

    fn sentence(&self, subject: &str, told: Trait) -> String {
        let of = |words: &[&'static str; 32]| words[self.traits[told as usize]];
        match told {
            Trait::Village => format!("{subject} lives in {}.", of(&VILLAGES)),
            Trait::Trade => format!("{subject} is a {}.", of(&TRADES)),
            Trait::Animal => format!("{subject} keeps a {}.", of(&ANIMALS)),
            Trait::Dish => format!("{subject} likes {}.", of(&DISHES)),
        }
    }
}

/// A told portrait: its text, and whose it is.
#[derive(Clone, Debug)]
pub(crate) struct Portrait {
    pub(crate) passage: String,
    resident: Resident,
}

impl Portrait {
    /// A portrait of this split: all four traits of one resident, in any order.
    pub(crate) fn tell(mix: &Mix, split: Split, rng: &mut Rng) -> Self {
        loop {
            let resident = Resident::of(rng.below(mix.residents));
            let mut order = TRAITS;
            rng.shuffle(&mut order);
            let subjects = [resident.name(), resident.pronoun().to_owned()];
            let sentences: Vec<String> = order
                .iter()
                .enumerate()
                .map(|(at, told)| resident.sentence(&subjects[at.min(1)], *told))
                .collect();
            let passage = sentences.join(" ");
            if Split::of(&passage) == split {
                return Self { passage, resident };
            }
        }
    }

    /// A question about a skill that the resident has (`answer`) or lacks; `None` where all are of the other sort.
    pub(crate) fn ask(&self, answer: bool, rng: &mut Rng) -> Option<String> {
        let fitting: Vec<usize> = (0..SKILLS.len()).filter(|&s| self.resident.skills[s] == answer).collect();
        let skill = rng.pick(&fitting)?;
        Some(self.question(skill))
    }

    /// Questions about `count` skills, no two alike, with their answers.
    pub(crate) fn ask_several(&self, count: usize, rng: &mut Rng) -> Vec<(String, bool)> {
        let mut skills: Vec<usize> = (0..SKILLS.len()).collect();
        rng.shuffle(&mut skills);
        skills.truncate(count);
        skills.into_iter().map(|skill| (self.question(skill), self.resident.skills[skill])).collect()
    }

    fn question(&self, skill: usize) -> String {
        format!("can {} {}", self.resident.name(), SKILLS[skill])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_resident_has_a_name_of_their_own() {
        let names: HashSet<String> = (0..NAMES).map(|index| Resident::of(index).name()).collect();
        assert_eq!(names.len(), NAMES);
    }

    #[test]
    fn no_word_is_twice_in_a_list() {
        let lists: [&[&str]; 7] = [&FIRST, &HEADS, &TAILS, &VILLAGES, &TRADES, &ANIMALS, &DISHES];
        for list in lists {
            assert_eq!(list.iter().collect::<HashSet<_>>().len(), list.len(), "{list:?}");
        }
    }

    #[test]
    fn traits_and_skills_are_even() {
        let residents: Vec<Resident> = (0..8_000).map(Resident::of).collect();
        for of in 0..TRAITS.len() {
            let mut counts = [0usize; 32];
            for resident in &residents {
                counts[resident.traits[of]] += 1;
            }
            assert!(counts.iter().all(|count| (180..330).contains(count)), "{counts:?}");
        }
        for skill in 0..SKILLS.len() {
            let able = residents.iter().filter(|r| r.skills[skill]).count();
            assert!((3_800..4_200).contains(&able), "{able}");
        }
    }
}
