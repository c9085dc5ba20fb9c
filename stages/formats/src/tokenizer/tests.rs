use proptest::prelude::*;

use super::*;
use crate::gguf::testing;

fn from_gguf(pre: &str) -> Tokenizer {
    let file = testing::tokenizer(pre).build();
    Tokenizer::from_gguf(&Gguf::parse(&file).unwrap()).unwrap()
}

#[test]
fn json_round_trip_keeps_ids_and_bytes() {
    let text = "abc ab 123 <|end|>\n\n  a'll é";
    for pre in ["smollm", "gpt-2", "llama-bpe"] {
        let built = from_gguf(pre);
        let json = built.to_json_bytes().unwrap();
        let read = Tokenizer::from_json_bytes(&json).unwrap();
        assert_eq!(read.to_json_bytes().unwrap(), json, "{pre}");
        assert!(read.splitter.is_some(), "{pre}");
        for add_special in [false, true] {
            assert_eq!(
                read.encode(text, add_special).unwrap(),
                built.encode(text, add_special).unwrap(),
                "{pre}"
            );
        }
        assert_eq!(read.decode(&built.encode(text, false).unwrap()).unwrap(), text, "{pre}");
        assert_eq!(read.bos_token_id(), None);
        assert_eq!(read.with_special_ids(Some(0), None).unwrap().bos_token_id(), Some(0));
    }
}

#[test]
fn long_texts_give_the_same_ids_with_and_without_cutting() {
    let text = "abc ab, 12 a\n\n a  <|end|> é ".repeat(4000);
    for pre in ["smollm", "gpt-2", "llama-bpe"] {
        let cutting = from_gguf(pre);
        let whole = Tokenizer { splitter: None, ..cutting.clone() };
        assert!(cutting.splitter.as_ref().unwrap().pieces(&text).len() > 3);
        assert_eq!(cutting.encode(&text, true).unwrap(), whole.encode(&text, true).unwrap(), "{pre}");
    }
}

#[test]
fn qwen2_composes_characters_and_keeps_digits_apart() {
    let tokenizer = from_gguf("qwen2");
    assert!(tokenizer.splitter.is_none(), "a normalizer may look across any cut");
    let ids = |text: &str| tokenizer.encode(text, true).unwrap();
    assert_eq!(ids("e\u{301}"), ids("é"));
    assert_eq!(ids("12"), [ids("1"), ids("2")].concat());
    let read = Tokenizer::from_json_bytes(&tokenizer.to_json_bytes().unwrap()).unwrap();
    let text = "abc ab 123 <|end|>\n\n  a'll é";
    assert_eq!(read.encode(text, true).unwrap(), ids(text));
    assert_eq!(tokenizer.decode(&ids(text)).unwrap(), text);
}

#[test]
fn batches_keep_their_order() {
    let tokenizer = from_gguf("smollm");
    let texts = ["abc", "", "a b"];
    let expected: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text, true).unwrap()).collect();
    assert_eq!(tokenizer.encode_batch(&texts, true).unwrap(), expected);
}

#[test]
fn truncation_and_padding_in_the_file_are_dropped() {
    let json = from_gguf("gpt-2").to_json_bytes().unwrap();
    let mut value: serde_json::Value = serde_json::from_slice(&json).unwrap();
    value["truncation"] =
        serde_json::json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    let read = Tokenizer::from_json_bytes(value.to_string().as_bytes()).unwrap();
    assert_eq!(read.encode("a b c d", false).unwrap().len(), 7);
    assert_eq!(read.to_json_bytes().unwrap(), json);
}

#[test]
fn unknown_ids_are_errors() {
    let tokenizer = from_gguf("gpt-2");
    assert_eq!(tokenizer.vocab_size(), 261);
    assert!(matches!(
        tokenizer.decode(&[5, 261]),
        Err(TokenizerError::UnknownId { id: 261, vocab_size: 261 })
    ));
    assert!(tokenizer.clone().with_special_ids(Some(9999), None).is_err());
    assert_eq!(tokenizer.decode_without_special(&[0, 1]).unwrap(), "");
    assert!(matches!(Tokenizer::from_json_bytes(b"{}"), Err(TokenizerError::Invalid { .. })));
}

proptest! {
    #[test]
    fn mutated_files_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        static JSON: std::sync::LazyLock<Vec<u8>> =
            std::sync::LazyLock::new(|| from_gguf("llama-bpe").to_json_bytes().unwrap());
        let mut json = JSON.clone();
        for (place, byte) in &edits {
            let at = place.index(json.len());
            json[at] = *byte;
        }
        if let Ok(tokenizer) = Tokenizer::from_json_bytes(&json) {
            let ids = tokenizer.encode("abc ab <|end|> 12", true);
            ids.and_then(|ids| tokenizer.decode(&ids)).ok();
            tokenizer.to_json_bytes().ok();
        }
    }
}
