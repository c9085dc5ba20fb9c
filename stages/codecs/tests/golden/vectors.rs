//! Reading the golden files.

use std::path::PathBuf;

use half::{bf16, f16};
use qpipe_codecs::{BlockSize, FourBit, Rounding, round_slice};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// Of the codes of FP4 and int8, how many may be one step off.
pub(crate) const OFF_BY_ONE: f64 = 2e-4;

/// A file in the golden folder.
pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"))
        .join("../../tests/golden")
        .join(name)
}

pub(crate) fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path(name)).unwrap()).unwrap()
}

/// The tensors of one file.
pub(crate) struct Vectors {
    bytes: Vec<u8>,
}

impl Vectors {
    pub(crate) fn read(file: &str) -> Self {
        Self { bytes: std::fs::read(path(file)).unwrap() }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.tensors().names().into_iter().map(str::to_owned).collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors().tensor(name).is_ok()
    }

    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        self.tensors().tensor(name).unwrap().shape().to_vec()
    }

    pub(crate) fn u8(&self, name: &str) -> Vec<u8> {
        self.tensors().tensor(name).unwrap().data().to_vec()
    }

    pub(crate) fn i8(&self, name: &str) -> Vec<i8> {
        self.u8(name).into_iter().map(|b| b as i8).collect()
    }

    pub(crate) fn i64(&self, name: &str) -> Vec<i64> {
        self.u8(name).as_chunks().0.iter().copied().map(i64::from_le_bytes).collect()
    }

    /// A tensor of any float dtype, widened.
    pub(crate) fn float(&self, name: &str) -> Vec<f32> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap();
        let halves = || tensor.data().as_chunks::<2>().0.iter().copied();
        match tensor.dtype() {
            Dtype::F32 => tensor.data().as_chunks().0.iter().copied().map(f32::from_le_bytes).collect(),
            Dtype::F16 => halves().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::BF16 => halves().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            other => panic!("{name} is {other:?}"),
        }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }
}

/// One 4-bit case of the index: its vectors, its weights, and the dtype of both.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) vectors: Vectors,
    pub(crate) weights: Vec<f32>,
    pub(crate) dtype: Rounding,
    pub(crate) configs: Vec<Config>,
}

/// A data type and a block size, `nf4.b64` in the names of tensors.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) prefix: String,
    pub(crate) kind: FourBit,
    pub(crate) block: BlockSize,
}

impl Config {
    pub(crate) fn parse(prefix: &str) -> Self {
        let (kind, block) = prefix.split_once(".b").unwrap();
        let kind = FourBit::ALL.into_iter().find(|k| k.name() == kind).unwrap();
        let block = BlockSize::try_from(block.parse::<u32>().unwrap()).unwrap();
        Self { prefix: prefix.to_owned(), kind, block }
    }

    pub(crate) fn key(&self, tensor: &str) -> String {
        format!("{}.{tensor}", self.prefix)
    }
}

/// All 4-bit cases of the index.
pub(crate) fn cases() -> Vec<Case> {
    let index = json("index.json");
    let all = index["cases"].as_array().unwrap();
    let cases: Vec<Case> = all.iter().filter(|case| case["kind"] == "4bit").map(case).collect();
    assert_eq!(cases.len(), 20, "number of 4-bit cases in the index");
    cases
}

/// The 4-bit cases that have codes: all but NaN and infinity.
pub(crate) fn finite_cases() -> Vec<Case> {
    cases().into_iter().filter(|case| case.weights.iter().all(|w| w.is_finite())).collect()
}

/// Rounds to the dtype of a case.
pub(crate) fn rounded(mut x: Vec<f32>, dtype: Rounding) -> Vec<f32> {
    round_slice(&mut x, dtype);
    x
}

/// Compares floats bit by bit.
pub(crate) fn assert_same_bits(actual: &[f32], expected: &[f32], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    let bad: Vec<usize> =
        (0..actual.len()).filter(|&i| actual[i].to_bits() != expected[i].to_bits()).collect();
    if let Some(&i) = bad.first() {
        panic!("{what}: {} of {} differ, first {i}: {} {}", bad.len(), actual.len(), actual[i], expected[i]);
    }
}

fn case(entry: &Value) -> Case {
    let name = entry["name"].as_str().unwrap().to_owned();
    let vectors = Vectors::read(entry["file"].as_str().unwrap());
    let weights = if vectors.has("input") { vectors.float("input") } else { splitmix(entry) };
    let dtype = match entry["dtype"].as_str().unwrap() {
        "f32" => Rounding::None,
        "f16" => Rounding::F16,
        "bf16" => Rounding::Bf16,
        other => panic!("{name} is {other}"),
    };
    let configs = entry["configs"].as_array().unwrap();
    let configs = configs.iter().map(|c| Config::parse(c.as_str().unwrap())).collect();
    Case { name, vectors, weights, dtype, configs }
}

/// The one input that is generated: uniform in ±0.05, then bf16.
fn splitmix(entry: &Value) -> Vec<f32> {
    assert_eq!(entry["name"], "splitmix_bf16_576x1536");
    let uniform = |i: u64| {
        let bits = splitmix64(1u64.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        ((bits >> 40) as f32 / 8_388_608.0 - 1.0) * 0.05
    };
    rounded((0..576 * 1536).map(uniform).collect(), Rounding::Bf16)
}

fn splitmix64(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Per code, how many levels lie between the two; a different sign of the smallest magnitudes is one step.
pub(crate) fn fp4_steps(ours: &[u8], theirs: &[u8]) -> Vec<i32> {
    let codes = |bytes: &[u8]| bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(fp4_rank).collect::<Vec<_>>();
    codes(ours).into_iter().zip(codes(theirs)).map(|(a, b)| (a - b).abs()).collect()
}

/// Position of a code among the ascending levels, both zeros counted.
fn fp4_rank(code: u8) -> i32 {
    let magnitude = [0, 1, 6, 7, 4, 5, 2, 3].iter().position(|&c| c == code & 7).unwrap() as i32;
    if code < 8 { magnitude } else { -1 - magnitude }
}
