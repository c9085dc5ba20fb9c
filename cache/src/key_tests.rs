//! Golden vectors (computed by an independent implementation of the written rules) and properties of keys.

use proptest::prelude::*;

use super::*;

fn map<const N: usize>(entries: [(&str, KeyValue); N]) -> BTreeMap<String, KeyValue> {
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").unwrap();
        out
    })
}

fn everything() -> KeyDoc {
    let (empty, abc) = (Digest::of_bytes(b""), Digest::of_bytes(b"abc"));
    let list: Vec<KeyValue> = vec![1.into(), Vec::<i64>::new().into(), "é".into()];
    let nested = map([("ä", 2.5.into()), ("a", map([]).into()), ("Z", vec![true].into())]);
    KeyDoc::new("x", 7)
        .param("b", false)
        .param("i", -1)
        .param("z", -0.0)
        .param("n", f64::NAN)
        .param("inf", f64::INFINITY)
        .param("t", "")
        .param("d", empty)
        .param("l", list)
        .param("m", nested)
        .input("q", empty)
        .input("p", abc)
        .numerics("")
}

#[test]
fn golden_encoding_of_the_smallest_document() {
    let doc = KeyDoc::new("load", 1);
    assert_eq!(
        hex(&doc.canonical_bytes()),
        "0100000004000000000000006c6f6164010000000000000000000000000000000000000000"
    );
    assert_eq!(doc.key().to_string(), "39407f29a043fccb4e87b4444505a0176fcd8f11b34200eeb9b4bd3f9f3d24c3");
}

#[test]
fn golden_key_of_a_usual_document() {
    let doc = KeyDoc::new("quantize", 3)
        .param("scheme", "nf4")
        .param("block", 64)
        .param("double-quant", true)
        .param("clip", 0.95)
        .input("model", Digest::of_bytes(b"abc"))
        .numerics("cuda-sm90");
    assert_eq!(doc.key().to_string(), "244b90991628c04ae5ae5268b905dd59485c4abd6e4f76d75339c1c865620ac6");
}

#[test]
fn golden_key_of_every_kind_of_value() {
    assert_eq!(
        everything().key().to_string(),
        "1a43f453ef053b56dcc8e1cfa33d13bf80e043e6d8fc3a84e3e6eded85916224"
    );
}

#[test]
fn the_order_of_naming_does_not_matter() {
    let one = KeyDoc::new("k", 1).param("a", 1).param("b", 2).input("x", Digest::of_bytes(b"x"));
    let two = KeyDoc::new("k", 1).input("x", Digest::of_bytes(b"x")).param("b", 2).param("a", 1);
    assert_eq!(one.key(), two.key());
}

#[test]
fn neighbouring_documents_differ() {
    let base = || KeyDoc::new("k", 1).param("a", "bc");
    let others = [
        base(),
        KeyDoc::new("k", 2).param("a", "bc"),
        KeyDoc::new("ka", 1).param("a", "bc"),
        KeyDoc::new("k", 1).param("ab", "c"),
        KeyDoc::new("k", 1).param("a", vec!["bc"]),
        KeyDoc::new("k", 1).param("a", vec!["b", "c"]),
        KeyDoc::new("k", 1).param("a", 1),
        KeyDoc::new("k", 1).param("a", 1.0),
        KeyDoc::new("k", 1).param("a", true),
        KeyDoc::new("k", 1).param("a", Digest::of_bytes(b"a")),
        KeyDoc::new("k", 1).param("a", Digest::of_bytes(b"a").to_string()),
        KeyDoc::new("k", 1).input("a", Digest::of_bytes(b"a")),
        base().numerics("bc"),
        base().numerics(""),
    ];
    let keys: std::collections::BTreeSet<ActionKey> = others.iter().map(KeyDoc::key).collect();
    assert_eq!(keys.len(), others.len());
}

#[test]
fn a_document_with_an_unknown_field_is_refused() {
    let json = r#"{"kind":"k","semantics":1,"params":{},"inputs":{},"later":1}"#;
    assert!(serde_json::from_str::<KeyDoc>(json).is_err());
}

fn any_value() -> impl Strategy<Value = KeyValue> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(KeyValue::Bool),
        any::<i64>().prop_map(KeyValue::Int),
        any::<u64>().prop_map(|bits| KeyValue::Float(f64::from_bits(bits))),
        prop_oneof![Just(0.0), Just(-0.0), Just(1.0)].prop_map(KeyValue::Float),
        ".{0,8}".prop_map(KeyValue::Text),
        any::<[u8; 32]>().prop_map(|bytes| KeyValue::Digest(Digest::from_bytes(bytes))),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(KeyValue::List),
            prop::collection::btree_map("[a-c]{0,2}", inner, 0..4).prop_map(KeyValue::Map),
        ]
    })
}

fn any_doc() -> impl Strategy<Value = KeyDoc> {
    let digest = any::<[u8; 32]>().prop_map(Digest::from_bytes);
    (
        "[a-c]{0,2}",
        0..3_u32,
        prop::collection::btree_map("[a-c]{0,2}", any_value(), 0..4),
        prop::collection::btree_map("[a-c]{0,2}", digest, 0..3),
        prop::option::of("[a-b]{0,2}"),
    )
        .prop_map(|(kind, semantics, params, inputs, numerics)| KeyDoc {
            kind,
            semantics,
            params,
            inputs,
            numerics,
        })
}

proptest! {
    #[test]
    fn json_keeps_the_key(doc in any_doc()) {
        let text = serde_json::to_string(&doc).unwrap();
        let back: KeyDoc = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(back.key(), doc.key());
        prop_assert_eq!(back, doc);
    }

    #[test]
    fn documents_are_equal_exactly_when_their_keys_are(a in any_doc(), b in any_doc()) {
        prop_assert_eq!(a == b, a.key() == b.key());
        prop_assert_eq!(a == b, a.canonical_bytes() == b.canonical_bytes());
    }

    #[test]
    fn changing_one_value_changes_the_key(doc in any_doc(), value in any_value()) {
        let changed = doc.clone().param("a", value);
        prop_assert_eq!(changed == doc, changed.key() == doc.key());
    }
}
