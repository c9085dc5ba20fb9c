//! What the sets promise as sets: the same bytes for ever, no passage on both sides, balance, and no way to answer
//! from the question alone.

use std::collections::{HashMap, HashSet};

use qpipe_smallworld::{Corpus, Document, Item, Kind, Split, evaluation_items, fnv1a, heldout_text};

/// What an evaluation set asks, and the share of each in percent.
const ASKED: [(Kind, f64); 4] =
    [(Kind::Skill, 50.0), (Kind::Detail, 42.0), (Kind::Place, 5.0), (Kind::Holds, 3.0)];

/// The kinds that the passage answers.
const READ: [Kind; 3] = [Kind::Detail, Kind::Place, Kind::Holds];

fn of_kind(items: &[Item], kind: Kind) -> Vec<Item> {
    items.iter().filter(|item| item.kind == kind).cloned().collect()
}

fn passages(documents: usize) -> HashSet<String> {
    let first_line = |document: Document| document.text.lines().next().unwrap_or_default().to_owned();
    Corpus::new(42).take(documents).map(first_line).collect()
}

#[test]
fn the_first_hundred_documents_never_change() {
    let text: String = Corpus::new(42).take(100).map(|document| document.text).collect();
    assert_eq!(format!("{:016x}", fnv1a(text.as_bytes())), "fe34a31200b6af02");
}

#[test]
fn the_evaluation_items_never_change() {
    let text = serde_json::to_string(&evaluation_items(42, 100)).unwrap();
    assert_eq!(format!("{:016x}", fnv1a(text.as_bytes())), "83e7542250305666");
}

#[test]
fn a_longer_set_extends_a_shorter_one() {
    assert_eq!(evaluation_items(3, 50), evaluation_items(3, 80)[..50]);
    assert_eq!(heldout_text(3, 50), heldout_text(3, 80)[..50]);
    assert_ne!(evaluation_items(3, 50), evaluation_items(4, 50));
}

#[test]
fn no_passage_is_on_both_sides() {
    let training = passages(20_000);
    assert!(training.iter().all(|passage| Split::of(passage) == Split::Training));
    let items = evaluation_items(42, 2_000);
    let measured: HashSet<&str> = items.iter().map(|item| item.passage.as_str()).collect();
    assert_eq!(measured.len(), items.len(), "every item has a passage of its own");
    let texts = heldout_text(42, 500);
    let heldout = texts.iter().map(|text| text.lines().next().unwrap());
    for passage in measured.into_iter().chain(heldout) {
        assert_eq!(Split::of(passage), Split::Evaluation, "{passage}");
        assert!(!training.contains(passage), "{passage}");
    }
}

#[test]
fn passages_have_three_to_five_sentences() {
    for item in evaluation_items(5, 1_000) {
        let sentences = item.passage.matches('.').count();
        let most = if [Kind::Detail, Kind::Skill].contains(&item.kind) { 4 } else { 5 };
        assert!((3..=most).contains(&sentences), "{}", item.passage);
    }
}

#[test]
fn answers_balance_in_every_kind() {
    let items = evaluation_items(42, 1_000);
    for (kind, percent) in ASKED {
        let of_kind = of_kind(&items, kind);
        let yes = of_kind.iter().filter(|item| item.answer).count();
        assert!((of_kind.len() as f64 / 10.0 - percent).abs() < 3.0, "{kind:?}: {} of 1000", of_kind.len());
        assert!(yes.abs_diff(of_kind.len() - yes) <= 1, "{kind:?}: {yes} of {}", of_kind.len());
    }
    assert!(items.iter().all(|item| ASKED.iter().any(|(kind, _)| *kind == item.kind)));
}

#[test]
fn training_answers_balance() {
    let text: String = Corpus::new(9).take(4_000).map(|document| document.text).collect();
    let (yes, no) = (text.matches("Answer: yes\n").count(), text.matches("Answer: no\n").count());
    let share = yes as f64 / (yes + no) as f64;
    assert!((0.48..0.52).contains(&share), "{share}");
}

/// The words of a question that name something, and whether the passage names each.
fn named(item: &Item) -> Vec<bool> {
    let spare = ["is", "it", "in", "the", "there", "a", "does", "have"];
    let passage: HashSet<&str> = item.passage.split([' ', '.']).collect();
    let asked = item.question.split(' ').filter(|word| !spare.contains(word));
    asked.map(|word| passage.contains(word)).collect()
}

#[test]
fn a_question_about_a_story_names_what_the_story_names() {
    for item in evaluation_items(11, 6_000).iter().filter(|i| [Kind::Place, Kind::Holds].contains(&i.kind)) {
        assert!(named(item).into_iter().all(|named| named), "`{}`: {}", item.question, item.passage);
    }
}

#[test]
fn a_question_about_a_scene_is_wrong_in_its_one_word_that_the_scene_does_not_name() {
    for item in evaluation_items(11, 2_000).iter().filter(|item| item.kind == Kind::Detail) {
        let unnamed = named(item).into_iter().filter(|named| !named).count();
        assert_eq!(unnamed, usize::from(!item.answer), "`{}`: {}", item.question, item.passage);
    }
}

/// Words and pairs of words of a question: what a reader without the story could go by.
fn features(question: &str) -> Vec<String> {
    let words: Vec<&str> = question.split(' ').filter(|word| *word != "the").collect();
    let pairs = words.windows(2).map(|pair| pair.join(" "));
    words.iter().map(|word| (*word).to_owned()).chain(pairs).chain([question.to_owned()]).collect()
}

/// Naive Bayes with add-one counts.
fn question_only_accuracy(train: &[Item], test: &[Item]) -> f64 {
    let mut counts: HashMap<String, [f64; 2]> = HashMap::new();
    for item in train {
        for feature in features(&item.question) {
            counts.entry(feature).or_insert([1.0, 1.0])[usize::from(item.answer)] += 1.0;
        }
    }
    let score = |item: &Item| -> f64 {
        let known = features(&item.question).into_iter().filter_map(|feature| counts.get(&feature));
        known.map(|[no, yes]| (yes / no).ln()).sum()
    };
    let right = test.iter().filter(|item| (score(item) > 0.0) == item.answer).count();
    right as f64 / test.len() as f64
}

/// Items that are answered by reading. (What a resident can do is asked because the question alone does tell it, to
/// those who know the resident.)
fn read(seed: u64, count: usize) -> Vec<Item> {
    evaluation_items(seed, count).into_iter().filter(|item| READ.contains(&item.kind)).collect()
}

#[test]
fn the_question_alone_does_not_tell_the_answer() {
    let train = read(21, 16_000);
    let test = read(22, 8_000);
    let accuracy = question_only_accuracy(&train, &test);
    assert!(accuracy < 0.53, "{accuracy}");
    for kind in READ {
        let test = of_kind(&test, kind);
        let accuracy = question_only_accuracy(&of_kind(&train, kind), &test);
        // three standard errors of a coin thrown as often
        let chance = 0.5 + 1.5 / (test.len() as f64).sqrt();
        eprintln!("{kind:?}: {accuracy:.3} from the question alone, {} items", test.len());
        assert!(accuracy < chance, "{kind:?}: {accuracy} of {}, bound {chance}", test.len());
    }
    // the same reader does learn where there is something to learn
    let leaky = |items: &[Item]| -> Vec<Item> {
        let leak = |item: &Item| Item { answer: item.question.contains("is it"), ..item.clone() };
        items.iter().map(leak).collect()
    };
    assert!(question_only_accuracy(&leaky(&train), &leaky(&test)) > 0.9);
}
