use proptest::prelude::*;

use super::*;

const TINY: &[u8] = include_bytes!("../../../../tests/golden/tiny/base-bf16/model.safetensors");
const TINY_CONFIG: &[u8] = include_bytes!("../../../../tests/golden/tiny/base-bf16/config.json");

fn no_metadata() -> BTreeMap<String, String> {
    BTreeMap::new()
}

fn sample() -> Vec<u8> {
    let metadata =
        BTreeMap::from([("format".to_owned(), "pt".to_owned()), ("a".to_owned(), "\"b\"".to_owned())]);
    let tensors: [(&str, DType, &[usize], &[u8]); 4] = [
        ("codes", DType::U8, &[3], &[1, 2, 3]),
        ("z", DType::F32, &[1, 2], &[0, 0, 128, 63, 0, 0, 0, 64]),
        ("empty", DType::BF16, &[0, 4], &[]),
        ("scalar \"q\"", DType::I64, &[], &[9, 0, 0, 0, 0, 0, 0, 0]),
    ];
    write(&tensors, &metadata).unwrap()
}

#[test]
fn writes_what_it_and_the_reference_crate_read() {
    let bytes = sample();
    let file = TensorFile::parse(bytes.as_slice()).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["codes", "empty", "scalar \"q\"", "z"]);
    assert_eq!(file.metadata()["a"], "\"b\"");
    assert_eq!(file.get("codes").unwrap().bytes, [1, 2, 3]);
    assert_eq!(file.get("empty").unwrap().elements(), 0);
    let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(reference.tensor("z").unwrap().data(), file.get("z").unwrap().bytes);
    let data = bytes.len() - 8 - 8 - 3;
    assert_eq!(data % 8, 0, "the data starts aligned, widest elements first");
}

#[test]
fn bytes_depend_on_contents_not_on_order() {
    let a: (&str, DType, &[usize], &[u8]) = ("a", DType::U8, &[1], &[1]);
    let b: (&str, DType, &[usize], &[u8]) = ("b", DType::F16, &[1], &[2, 3]);
    let forward = write(&[a, b], &no_metadata()).unwrap();
    assert_eq!(forward, write(&[b, a], &no_metadata()).unwrap());
    let header = br#"{"b":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}"#;
    assert_eq!(&forward[8..8 + header.len()], header);
    assert_eq!(&forward[forward.len() - 3..], [2, 3, 1]);
}

#[test]
fn refuses_to_write_what_does_not_fit() {
    let short: (&str, DType, &[usize], &[u8]) = ("a", DType::F32, &[2], &[0; 4]);
    assert!(matches!(write(&[short], &no_metadata()), Err(FormatError::WrongByteCount { found: 4, .. })));
    let same: (&str, DType, &[usize], &[u8]) = ("a", DType::U8, &[1], &[0]);
    assert!(matches!(write(&[same, same], &no_metadata()), Err(FormatError::DuplicateTensor { .. })));
}

#[test]
fn reads_the_golden_checkpoint() {
    let file = TensorFile::parse(TINY).unwrap();
    let mut config = LlamaConfig::from_hf_json(TINY_CONFIG).unwrap();
    check_expected(std::slice::from_ref(&file), &config).unwrap();
    let q = file.get("model.layers.0.self_attn.q_proj.weight").unwrap();
    assert_eq!((q.dtype, q.shape.as_slice()), (DType::BF16, &[128, 128][..]));
    assert!(matches!(file.get("nope"), Err(FormatError::MissingTensor { .. })));

    config.num_hidden_layers = 3;
    let error = check_expected(std::slice::from_ref(&file), &config).unwrap_err();
    assert!(error.to_string().contains("`model.layers.2.input_layernorm.weight` is missing"), "{error}");
    config.num_hidden_layers = 2;
    config.intermediate_size = 321;
    let error = check_expected(&[file], &config).unwrap_err();
    assert!(matches!(error, FormatError::WrongShape { .. }), "{error}");
}

#[test]
fn a_quantized_checkpoint_is_not_taken_for_a_plain_one() {
    let bytes = include_bytes!("../../../../tests/golden/tiny/int8/model.safetensors");
    let file = TensorFile::parse(&bytes[..]).unwrap();
    let config = LlamaConfig::from_hf_json(TINY_CONFIG).unwrap();
    let error = check_expected(&[file], &config).unwrap_err();
    assert!(matches!(&error, FormatError::UnsupportedDType { dtype, .. } if dtype == "I8"), "{error}");
}

#[test]
fn truncation_names_what_is_cut() {
    let whole = TensorFile::parse(TINY).unwrap();
    let last = whole.entries.iter().max_by_key(|(_, entry)| entry.end).unwrap().0.clone();
    let error = TensorFile::parse(&TINY[..TINY.len() - 1]).unwrap_err().to_string();
    assert!(error.contains(&format!("tensor `{last}`")), "{error}");
    for (end, what) in [(0, "header's length"), (7, "header's length"), (100, "the header")] {
        let error = TensorFile::parse(&TINY[..end]).unwrap_err();
        assert!(matches!(&error, FormatError::Truncated { what: w, .. } if w.contains(what)), "{error}");
    }
    let longer = [TINY, b"x"].concat();
    assert!(matches!(TensorFile::parse(longer), Err(FormatError::TrailingBytes { extra: 1 })));
}

#[test]
fn refuses_bad_headers() {
    let file = |header: &str| [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    assert!(matches!(TensorFile::parse(file("{")), Err(FormatError::Header(_))));
    let overlap = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[5,6]}}"#;
    assert!(matches!(TensorFile::parse(file(overlap)), Err(FormatError::Header(_))));
    let shape = r#"{"a":{"dtype":"U8","shape":[18446744073709551615,2],"data_offsets":[0,0]}}"#;
    assert!(matches!(TensorFile::parse(file(shape)), Err(FormatError::Header(_))));
    let fp8 = r#"{"a":{"dtype":"F8_E4M3","shape":[0],"data_offsets":[0,0]}}"#;
    assert!(matches!(TensorFile::parse(file(fp8)), Err(FormatError::UnsupportedDType { .. })));
    assert!(matches!(TensorFile::parse([0xff; 16]), Err(FormatError::HeaderTooLarge { .. })));
}

fn use_everything(bytes: &[u8]) {
    let Ok(file) = TensorFile::parse(bytes) else { return };
    for (name, view) in file.tensors() {
        assert_eq!(view.dtype.byte_count(&view.shape), Some(view.bytes.len()));
        assert_eq!(crate::values::to_f32(&file.get(name).unwrap()).len(), view.elements());
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        use_everything(&bytes);
        let length = (bytes.len() as u64).to_le_bytes();
        use_everything(&[&length[..], &bytes].concat());
    }

    #[test]
    fn mutated_files_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut file = sample();
        for (place, byte) in &edits {
            let at = place.index(file.len());
            file[at] = *byte;
        }
        use_everything(&file);
    }

    #[test]
    fn what_is_written_is_read(
        tensors in prop::collection::btree_map("[a-z.\"\\\\é]{0,8}", prop::collection::vec(any::<u8>(), 0..9), 0..6)
    ) {
        let list: Vec<_> =
            tensors.iter().map(|(name, bytes)| (name, DType::U8, [bytes.len()], bytes.as_slice())).collect();
        let file = TensorFile::parse(write(&list, &no_metadata()).unwrap()).unwrap();
        prop_assert_eq!(file.names().count(), tensors.len());
        for (name, bytes) in &tensors {
            prop_assert_eq!(file.get(name).unwrap().bytes, bytes.as_slice());
        }
    }
}
