//! Every answer is derived a second time, from the words of the scene or story alone: a reader that shares no code
//! with the generator splits the sentences, keeps its own notes, and answers the question.

use std::collections::{BTreeMap, HashMap, HashSet};

use qpipe_smallworld::{Corpus, END_OF_TEXT, Kind, Sort, evaluation_items};

const PLURALS: [&str; 4] = ["go", "walk", "run", "are"];
const MOVES: [&str; 3] = ["goes", "walks", "runs"];
const WEATHER: [&str; 5] = ["raining", "snowing", "windy", "warm", "cold"];
const TIMES: [&str; 4] = ["morning", "noon", "evening", "night"];

/// What a reader notes down.
#[derive(Default)]
struct Notes {
    place: HashMap<String, String>,
    visited: HashSet<(String, String)>,
    holder: HashMap<String, String>,
    lies: HashMap<String, String>,
    feeling: HashMap<String, String>,
    gave: HashSet<(String, String, String)>,
    weather: Option<String>,
    time: Option<String>,
    creature: Option<String>,
    last: String,
}

/// `the red ball` and `Red ball` alike become `red ball`.
fn bare(words: &[&str]) -> String {
    let words = words.iter().filter(|word| !word.eq_ignore_ascii_case("the"));
    words.copied().collect::<Vec<_>>().join(" ")
}

impl Notes {
    fn read(passage: &str) -> Self {
        let mut notes = Self::default();
        for sentence in passage.split_inclusive('.') {
            let sentence = sentence.trim().strip_suffix('.').expect("sentences end with a full stop");
            notes.note(&sentence.split(' ').collect::<Vec<_>>());
        }
        notes
    }

    fn note(&mut self, words: &[&str]) {
        let words = if words[0] == "Then" { &words[1..] } else { words };
        match words {
            ["It", "rains"] | ["It", "is", "late"] => return,
            ["It", "is", word] if WEATHER.contains(word) => return self.weather = Some((*word).to_owned()),
            ["It", "is", word] if TIMES.contains(word) => return self.time = Some((*word).to_owned()),
            ["There", "is", "a", creature] | ["comes", "a", creature] | ["Here", "comes", "a", creature] => {
                return self.creature = Some((*creature).to_owned());
            }
            _ => {}
        }
        if let Some(and) = words.iter().position(|word| *word == "and") {
            let verb = words.iter().position(|word| PLURALS.contains(word)).expect("two need a plural verb");
            for who in [&words[..and], &words[and + 1..verb]] {
                self.arrive(&bare(who), words[words.len() - 1]);
            }
            return;
        }
        self.note_single(words);
    }

    fn note_single(&mut self, words: &[&str]) {
        let after_subject = match words[0] {
            "The" | "the" if words[2] == "is" && words.len() == 6 => 2,
            "The" | "the" if words.get(3) == Some(&"is") => 3,
            "The" | "the" => 2,
            _ => 1,
        };
        let named = bare(&words[..after_subject]);
        let pronoun = ["He", "She", "It", "he", "she", "it"].contains(&named.as_str());
        let who = if pronoun { self.last.clone() } else { named };
        self.act(&who, words[after_subject], &words[after_subject + 1..]);
        if !who.contains(' ') {
            self.last = who;
        }
    }

    fn act(&mut self, who: &str, verb: &str, rest: &[&str]) {
        let end = rest.last().copied().unwrap_or_default();
        match (verb, rest) {
            ("is", ["in", "the", place]) if who.contains(' ') => {
                self.lies.insert(who.to_owned(), (*place).to_owned());
            }
            ("is", ["in", "the", place]) => self.arrive(who, place),
            (verb, ["to", "the", place]) if MOVES.contains(&verb) => self.arrive(who, place),
            ("is" | "feels", [feeling]) => {
                self.feeling.insert(who.to_owned(), (*feeling).to_owned());
            }
            ("takes" | "grabs" | "gets" | "has", object) => {
                assert!(!self.holder.contains_key(&bare(object)), "taken from a hand: {object:?}");
                self.holder.insert(bare(object), who.to_owned());
            }
            ("gives" | "hands", ["the", colour, noun, "to", _]) => {
                let object = format!("{colour} {noun}");
                assert_eq!(self.holder.get(&object).map(String::as_str), Some(who), "gives what another has");
                assert_eq!(self.place.get(who), self.place.get(end), "gives across places");
                self.gave.insert((who.to_owned(), object.clone(), end.to_owned()));
                self.holder.insert(object, end.to_owned());
            }
            ("drops" | "leaves", object) => {
                assert_eq!(self.holder.remove(&bare(object)).as_deref(), Some(who), "drops what another has");
                self.lies.insert(bare(object), self.place[who].clone());
            }
            ("sings" | "sits", []) | ("likes" | "thinks" | "waves", _) => {}
            other => panic!("{who} {other:?}"),
        }
    }

    fn arrive(&mut self, who: &str, place: &str) {
        self.place.insert(who.to_owned(), place.to_owned());
        self.visited.insert((who.to_owned(), place.to_owned()));
    }

    fn place_of_object(&self, object: &str) -> Option<&String> {
        match self.holder.get(object) {
            Some(who) => self.place.get(who),
            None => self.lies.get(object),
        }
    }

    fn answer(&self, question: &str) -> bool {
        let words: Vec<&str> = question.split(' ').filter(|word| *word != "the").collect();
        match words.as_slice() {
            ["is", "it", word] if TIMES.contains(word) => self.time.as_deref() == Some(*word),
            ["is", "it", word] => self.weather.as_deref() == Some(*word),
            ["is", "there", "a", creature] => self.creature.as_deref() == Some(*creature),
            ["is", who, "in", place] => self.place.get(*who).is_some_and(|at| at == place),
            ["is", colour, noun, "in", place] => {
                self.place_of_object(&format!("{colour} {noun}")).is_some_and(|at| at == place)
            }
            ["is", first, "with", second] => self.place[*first] == self.place[*second],
            ["is", who, feeling] => self.feeling.get(*who).is_some_and(|now| now == feeling),
            ["has", who, "been", "in", place] => {
                self.visited.contains(&((*who).to_owned(), (*place).to_owned()))
            }
            ["does", who, "have", colour, noun] => {
                self.holder.get(&format!("{colour} {noun}")).is_some_and(|has| has == who)
            }
            ["did", from, "give", colour, noun, "to", to] => {
                self.gave.contains(&((*from).to_owned(), format!("{colour} {noun}"), (*to).to_owned()))
            }
            other => panic!("unknown question {other:?}"),
        }
    }

    /// The replies that are right for a question that asks for a fact: in a story a sentence, in a scene a word.
    fn replies(&self, question: &str) -> Vec<String> {
        let words: Vec<&str> = question.split(' ').collect();
        let one = |fact: Option<&String>| fact.cloned().into_iter().collect();
        match words.as_slice() {
            ["how", "is", "the", "weather"] => one(self.weather.as_ref()),
            ["what", "time", "is", "it"] => one(self.time.as_ref()),
            ["which", "animal", "is", "there"] => one(self.creature.as_ref()),
            ["what", "place", "is", who, "in"] => one(self.place.get(*who)),
            ["which", noun, "does", who, "have"] => {
                let held = self.holder.iter().filter(|(_, holder)| holder == who).map(|(object, _)| object);
                held.filter_map(|object| Some(object.strip_suffix(noun)?.trim().to_owned())).collect()
            }
            ["how", "is", who] => {
                let feeling = &self.feeling[*who];
                vec![feeling.clone(), format!("{who} is {feeling}")]
            }
            ["where", "is", "the", colour, noun] => {
                let place = self.place_of_object(&format!("{colour} {noun}"));
                vec![format!("the {colour} {noun} is in the {}", place.expect("its place was told"))]
            }
            ["where", "is", who @ ..] => {
                vec![format!("{} is in the {}", who.join(" "), self.place[&bare(who)])]
            }
            ["who", "has", "the", object @ ..] => {
                let holder = self.holder.get(&object.join(" ")).map_or("nobody", String::as_str);
                vec![format!("{holder} has the {}", object.join(" "))]
            }
            other => panic!("unknown question {other:?}"),
        }
    }

    /// Whether a stated fact, such as `the red ball is in the park`, is so.
    fn holds(&self, fact: &str) -> bool {
        let words: Vec<&str> = fact.split(' ').filter(|word| *word != "the").collect();
        match words.as_slice() {
            ["nobody", "has", colour, noun] => !self.holder.contains_key(&format!("{colour} {noun}")),
            [who, "has", colour, noun] => self.answer(&format!("does {who} have {colour} {noun}")),
            [subject @ .., "is", "in", place] => self.answer(&format!("is {} in {place}", subject.join(" "))),
            [who, "is", feeling] => self.answer(&format!("is {who} {feeling}")),
            other => panic!("unknown fact {other:?}"),
        }
    }
}

/// The sort of fact that a sentence of a scene tells.
fn sort(sentence: &str) -> &'static str {
    let words: Vec<&str> = sentence.trim().split(' ').collect();
    match words.as_slice() {
        ["It", "is", word] if WEATHER.contains(word) => "weather",
        ["It", "is", word] if TIMES.contains(word) => "time",
        ["There" | "Here" | "Then", _, "a", _] => "creature",
        [_, _, "in" | "to", "the", _] => "place",
        [_, _, "the", _, _] => "thing",
        [_, "is" | "feels", _] => "feeling",
        other => panic!("unknown sentence {other:?}"),
    }
}

#[test]
fn evaluation_answers_follow_from_the_words_of_the_passage() {
    for item in evaluation_items(7, 8_000).into_iter().filter(|item| item.kind != Kind::Skill) {
        let notes = Notes::read(&item.passage);
        assert_eq!(notes.answer(&item.question), item.answer, "{} {}", item.passage, item.question);
    }
}

#[test]
fn a_scene_tells_a_sort_of_fact_once_and_a_wrong_question_contradicts_it() {
    for item in evaluation_items(12, 3_000).into_iter().filter(|item| item.kind == Kind::Detail) {
        let sentences: Vec<&str> = item.passage.split_terminator('.').collect();
        let sorts: HashSet<&str> = sentences.iter().map(|sentence| sort(sentence)).collect();
        assert!((3..=4).contains(&sentences.len()) && sorts.len() == sentences.len(), "{}", item.passage);
        let asked: Vec<&str> = item.question.split(' ').collect();
        let told = match asked.as_slice() {
            ["is", "it", word] if TIMES.contains(word) => "time",
            ["is", "it", _] => "weather",
            ["is", "there", ..] => "creature",
            ["is", _, "in", ..] => "place",
            ["does", ..] => "thing",
            _ => "feeling",
        };
        assert!(sorts.contains(told), "`{}` asks what was not told: {}", item.question, item.passage);
    }
}

/// What was asked in training documents, by the question's first words and the form of its reply.
type Asked = BTreeMap<String, usize>;

fn check_document(text: &str, asked: &mut Asked) {
    let mut lines = text.lines();
    let notes = Notes::read(lines.next().expect("a passage"));
    let mut question = "";
    for line in lines {
        if let Some(facts) = line.strip_prefix("In the end: ") {
            for fact in facts.split_terminator('.') {
                assert!(notes.holds(fact.trim()), "{text}\n{fact}");
            }
        } else if let Some(text) = line.strip_prefix("Question: ") {
            question = text.strip_suffix('?').expect("a question mark");
        } else {
            let reply = line.strip_prefix("Answer: ").expect("an answer");
            let first = question.split(' ').next().unwrap_or_default();
            let form = match reply {
                "yes" | "no" => {
                    assert_eq!(notes.answer(question), reply == "yes", "{text}\n{question}");
                    "closed"
                }
                reply => {
                    assert!(notes.replies(question).iter().any(|right| right == reply), "{text}\n{question}");
                    if reply.contains(' ') { "sentence" } else { "word" }
                }
            };
            *asked.entry(format!("{first} {form}")).or_default() += 1;
        }
    }
}

#[test]
fn training_answers_and_facts_follow_from_the_words_of_the_passage() {
    let mut asked = Asked::new();
    for document in Corpus::new(8).filter(|document| document.sort != Sort::Portrait).take(8_000) {
        check_document(document.text.strip_suffix(END_OF_TEXT).unwrap(), &mut asked);
    }
    // every form of question was met, so none of the checks above was idle
    let often =
        ["does closed", "how word", "is closed", "what word", "where sentence", "which word", "who sentence"];
    for form in often {
        assert!(asked.get(form).is_some_and(|&count| count >= 20), "{form}: {asked:?}");
    }
}

/// What is said of residents, by name and what it is about, and how often something was said a second time.
#[derive(Default)]
struct Registry {
    facts: HashMap<(String, String), String>,
    repeats: usize,
}

impl Registry {
    fn note(&mut self, name: &str, about: &str, fact: &str) {
        let key = (name.to_owned(), about.to_owned());
        match self.facts.get(&key) {
            Some(before) => {
                assert_eq!(before, fact, "{name} {about}");
                self.repeats += 1;
            }
            None => drop(self.facts.insert(key, fact.to_owned())),
        }
    }

    /// Notes a portrait's four facts; the name it is of.
    fn portrait(&mut self, passage: &str) -> String {
        let sentences: Vec<&str> = passage.split_terminator('.').map(str::trim).collect();
        assert_eq!(sentences.len(), 4, "{passage}");
        let name = sentences[0].split(' ').take(2).collect::<Vec<_>>().join(" ");
        let mut told = HashSet::new();
        for (at, sentence) in sentences.iter().enumerate() {
            let words: Vec<&str> = sentence.split(' ').skip(if at == 0 { 2 } else { 1 }).collect();
            let (about, fact) = match words.as_slice() {
                ["lives", "in", village] => ("village", village),
                ["is", "a", trade] => ("trade", trade),
                ["keeps", "a", animal] => ("animal", animal),
                ["likes", dish] => ("dish", dish),
                other => panic!("unknown sentence {other:?}"),
            };
            assert!(told.insert(about), "{passage}");
            self.note(&name, about, fact);
        }
        name
    }

    fn answer(&mut self, name: &str, question: &str, reply: &str) {
        let skill =
            question.strip_prefix(&format!("can {name} ")).expect("a question about the portrait's resident");
        self.note(name, skill, reply);
    }
}

#[test]
fn a_resident_is_the_same_in_every_portrait_and_every_answer() {
    let mut registry = Registry::default();
    for seed in [3, 4] {
        for document in Corpus::new(seed).filter(|document| document.sort == Sort::Portrait).take(12_000) {
            let text = document.text.strip_suffix(END_OF_TEXT).unwrap();
            let mut lines = text.lines();
            let name = registry.portrait(lines.next().unwrap());
            while let (Some(question), Some(reply)) = (lines.next(), lines.next()) {
                let question = question.strip_prefix("Question: ").unwrap().strip_suffix('?').unwrap();
                registry.answer(&name, question, reply.strip_prefix("Answer: ").unwrap());
            }
        }
    }
    let told = registry.repeats;
    for item in evaluation_items(7, 4_000).into_iter().filter(|item| item.kind == Kind::Skill) {
        let name = registry.portrait(&item.passage);
        registry.answer(&name, &item.question, if item.answer { "yes" } else { "no" });
    }
    assert!(told > 20_000 && registry.repeats > told + 5_000, "{told} {}", registry.repeats);
}
