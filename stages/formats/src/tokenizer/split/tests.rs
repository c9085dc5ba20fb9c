use proptest::prelude::*;

use super::*;
use crate::gguf::Gguf;
use crate::gguf::testing::tokenizer as metadata;

const PRES: [&str; 3] = ["smollm", "gpt-2", "llama-bpe"];

fn tokenizer(pre: &str) -> Tokenizer {
    let file = metadata(pre).build();
    crate::gguf::tokenizer::rebuild(&Gguf::parse(&file).unwrap()).unwrap().tokenizer
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec()
}

/// Pre-token boundaries show even where BPE has no merge across them.
fn words(tokenizer: &Tokenizer, text: &str) -> Vec<Option<u32>> {
    tokenizer.encode(text, false).unwrap().get_word_ids().to_vec()
}

#[test]
fn cuts_only_between_single_spaces() {
    assert_eq!(pieces_of("ab cd  ef\n gh ij", 1), ["ab", " cd  ef\n gh", " ij"]);
    assert_eq!(pieces_of(" a b", 1), [" a", " b"]);
    assert_eq!(pieces_of("", 1), [""]);
    assert_eq!(pieces_of("a ", 1), ["a "]);
    assert_eq!(pieces_of("é\u{a0} x\u{3000} y é ü", 1), ["é\u{a0} x\u{3000} y", " é", " ü"]);
    assert_eq!(pieces_of("aa bb cc", 4), ["aa bb", " cc"]);
}

#[test]
fn known_tokenizers_are_cut_and_others_are_not() {
    for pre in PRES {
        let mut tokenizer = tokenizer(pre);
        assert!(Splitter::for_tokenizer(&tokenizer).is_some(), "{pre}");
        tokenizer.add_special_tokens([tokenizers::AddedToken::from("<two words>", true)]).unwrap();
        assert!(Splitter::for_tokenizer(&tokenizer).is_none(), "{pre}: a special token holds a space");
    }
    let mut normalizing = tokenizer("gpt-2");
    normalizing.with_normalizer(Some(tokenizers::normalizers::unicode::NFC)).unwrap();
    assert!(Splitter::for_tokenizer(&normalizing).is_none());
    let mut prefixing = tokenizer("gpt-2");
    let byte_level = tokenizers::pre_tokenizers::byte_level::ByteLevel::new(true, true, true);
    prefixing.with_pre_tokenizer(Some(byte_level));
    assert!(Splitter::for_tokenizer(&prefixing).is_none());
}

proptest! {
    /// The claim itself, with texts made of what the patterns distinguish, cut wherever allowed.
    #[test]
    fn pieces_give_the_ids_and_boundaries_of_the_whole(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                " ", " ", " ", "  ", "\n", "\r\n", "\t", "\u{a0}", "\u{2009}", "a", "abc", "é", "中", "e\u{301}",
                "\u{301}", "7", "123", "½", "'s", "'", "'LL", ".", "...", "$", "😀", "<|end|>", "<|start|>", "<|e",
            ]),
            0..24,
        )
    ) {
        let text = parts.concat();
        let pieces = pieces_of(&text, 1);
        prop_assert_eq!(pieces.concat(), text.clone());
        for pre in PRES {
            let tokenizer = tokenizer_for(pre);
            let cut: Vec<u32> = pieces.iter().flat_map(|piece| ids(tokenizer, piece)).collect();
            prop_assert_eq!(&cut, &ids(tokenizer, &text), "{}", pre);
            let mut cut_words = Vec::new();
            for piece in &pieces {
                let before = cut_words.iter().copied().flatten().max().map_or(0, |word: u32| word + 1);
                cut_words.extend(words(tokenizer, piece).into_iter().map(|word| word.map(|word| word + before)));
            }
            prop_assert_eq!(runs(&cut_words), runs(&words(tokenizer, &text)), "{}", pre);
        }
    }
}

/// Where the word changes, as token positions: word numbers themselves may skip.
fn runs(words: &[Option<u32>]) -> Vec<usize> {
    (1..words.len()).filter(|&at| words[at] != words[at - 1]).collect()
}

fn tokenizer_for(pre: &str) -> &'static Tokenizer {
    static ALL: std::sync::LazyLock<Vec<Tokenizer>> =
        std::sync::LazyLock::new(|| PRES.iter().map(|pre| tokenizer(pre)).collect());
    &ALL[PRES.iter().position(|&other| other == pre).unwrap()]
}
