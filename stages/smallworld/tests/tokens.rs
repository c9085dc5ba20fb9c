//! What the tokenizer promises, and how many tokens documents and prompts have.

use std::collections::HashMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use qpipe_smallworld::{Corpus, END_OF_TEXT, evaluation_items, heldout_text, prompt, train_tokenizer};
use tokenizers::Tokenizer;

/// A word used as often in ten thousand documents is common.
const COMMON_USES: usize = 400;
/// Tokens that most documents stay within.
const LONG: usize = 65;
/// At most this many of a thousand documents are longer; a portrait with a long name loses its last reply to a window
/// of as many tokens.
const LONG_PER_THOUSAND: usize = 120;

/// The seed of the shipped model's tokenizer.
const SEED: u64 = 1;

static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::from_bytes(train_tokenizer(SEED).expect("it trains")).expect("it parses"));

fn count(tokenizer: &Tokenizer, text: &str) -> usize {
    tokenizer.encode(text, false).expect("any text encodes").len()
}

#[test]
fn training_it_again_gives_the_same_bytes() {
    let first = train_tokenizer(SEED).unwrap();
    // hash maps inside the trainer are seeded anew each time, so a dependence on their order would show
    for _ in 0..4 {
        assert_eq!(train_tokenizer(SEED).unwrap(), first);
    }
}

#[test]
fn the_vocabulary_is_full_and_token_zero_ends_a_text() {
    let tokenizer = &*TOKENIZER;
    assert_eq!(tokenizer.get_vocab_size(true), 1024);
    assert_eq!(tokenizer.token_to_id(END_OF_TEXT), Some(0));
    assert_eq!(tokenizer.encode(END_OF_TEXT, false).unwrap().get_ids(), [0]);
}

/// How often each word is used in so many documents; `Question:` and `Answer:` are no words.
fn word_counts(documents: usize) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for document in Corpus::new(77).take(documents) {
        let text = document.text.replace(END_OF_TEXT, "").replace(['.', '?', '\n'], " ");
        for word in text.split_whitespace().filter(|word| !word.ends_with(':')) {
            *counts.entry(word.to_owned()).or_insert(0) += 1;
        }
    }
    counts
}

#[test]
fn every_common_word_of_the_world_is_one_token() {
    let tokenizer = &*TOKENIZER;
    let counts = word_counts(10_000);
    let (common, rare): (Vec<_>, Vec<_>) = counts.into_iter().partition(|(_, uses)| *uses >= COMMON_USES);
    assert!(common.len() > 85, "{}", common.len());
    for (word, uses) in &common {
        assert_eq!(count(tokenizer, &format!(" {word}")), 1, "`{word}`, used {uses} times");
    }
    let uses: usize = rare.iter().map(|(_, uses)| uses).sum();
    let all: usize = uses + common.iter().map(|(_, uses)| uses).sum::<usize>();
    eprintln!("{} common words; {} rare ones are {uses} of {all} words", common.len(), rare.len());
    // most of them are family names, each one of 256
    assert!(uses * 3 < all, "rare words are {uses} of {all}");
}

#[test]
fn an_answer_is_one_token_and_the_same_after_every_prompt() {
    let tokenizer = &*TOKENIZER;
    let ids = |text: &str| tokenizer.encode(text, false).expect("any text encodes").get_ids().to_vec();
    let (yes, no) = (ids(" yes"), ids(" no"));
    assert!(yes.len() == 1 && no.len() == 1 && yes != no, "{yes:?} {no:?}");
    for item in evaluation_items(6, 200) {
        let prompt = prompt(&item.passage, &item.question);
        assert_eq!(ids(&format!("{prompt} yes")), [ids(&prompt), yes.clone()].concat());
        assert_eq!(ids(&format!("{prompt} no")), [ids(&prompt), no.clone()].concat());
    }
    assert_eq!(count(tokenizer, "\nQuestion:"), 3);
    assert_eq!(count(tokenizer, "\nAnswer:"), 3);
}

#[test]
fn documents_and_prompts_are_short() {
    let tokenizer = &*TOKENIZER;
    let mean = |lengths: &[usize]| lengths.iter().sum::<usize>() as f64 / lengths.len() as f64;
    let documents: Vec<usize> =
        Corpus::new(1).take(5_000).map(|document| count(tokenizer, &document.text)).collect();
    let longest = documents.iter().max().copied().unwrap();
    let long = documents.iter().filter(|&&length| length > LONG).count();
    let items = evaluation_items(42, 1_000);
    let prompts: Vec<usize> =
        items.iter().map(|item| count(tokenizer, &prompt(&item.passage, &item.question))).collect();
    let passages: Vec<usize> = items.iter().map(|item| count(tokenizer, &item.passage)).collect();
    let heldout: usize = heldout_text(42, 1_000).iter().map(|text| count(tokenizer, text)).sum();
    eprintln!(
        "documents: mean {:.1} tokens, longest {longest}, {long} of 5000 above {LONG}; passages: mean {:.1}; \
         prompts: mean {:.1}, longest {}; 1000 held-out texts: {heldout}",
        mean(&documents),
        mean(&passages),
        mean(&prompts),
        prompts.iter().max().unwrap(),
    );
    assert!((52.0..54.0).contains(&mean(&documents)), "{}", mean(&documents));
    assert!(longest <= 96, "{longest}");
    assert!(long * 1_000 <= documents.len() * LONG_PER_THOUSAND, "{long} of {}", documents.len());
    assert!(prompts.iter().all(|&length| length <= LONG));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_text_round_trips(text in "\\PC{0,40}[ \\n\\t]{0,3}\\PC{0,40}") {
        let tokenizer = &*TOKENIZER;
        prop_assume!(!text.contains(END_OF_TEXT));
        let ids = tokenizer.encode(text.as_str(), false).unwrap();
        prop_assert_eq!(tokenizer.decode(ids.get_ids(), false).unwrap(), text);
    }
}
