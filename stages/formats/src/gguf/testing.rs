//! Builds small GGUF files for tests.

use crate::gguf::GgmlType;

/// A GGUF file in the making.
#[derive(Clone)]
pub(crate) struct Builder {
    pub(crate) version: u32,
    metadata: Vec<Vec<u8>>,
    tensors: Vec<(Vec<u8>, Vec<u8>)>,
    data: u64,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self { version: 3, metadata: Vec::new(), tensors: Vec::new(), data: 0 }
    }

    /// An entry of any type: `code` and the value's bytes.
    pub(crate) fn raw(mut self, key: &str, code: u32, value: &[u8]) -> Self {
        self.metadata.push([&string(key)[..], &code.to_le_bytes(), value].concat());
        self
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Self {
        self.raw(key, 4, &value.to_le_bytes())
    }

    pub(crate) fn f32(self, key: &str, value: f32) -> Self {
        self.raw(key, 6, &value.to_le_bytes())
    }

    pub(crate) fn bool(self, key: &str, value: bool) -> Self {
        self.raw(key, 7, &[value.into()])
    }

    pub(crate) fn str(self, key: &str, value: &str) -> Self {
        self.raw(key, 8, &string(value))
    }

    pub(crate) fn strings<S: AsRef<str>>(self, key: &str, values: &[S]) -> Self {
        let items: Vec<u8> = values.iter().flat_map(|value| string(value.as_ref())).collect();
        self.array(key, 8, values.len() as u64, &items)
    }

    pub(crate) fn i32s(self, key: &str, values: &[i32]) -> Self {
        let items: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, 5, values.len() as u64, &items)
    }

    pub(crate) fn f32s(self, key: &str, values: &[f32]) -> Self {
        let items: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, 6, values.len() as u64, &items)
    }

    pub(crate) fn array(self, key: &str, code: u32, count: u64, items: &[u8]) -> Self {
        self.raw(key, 9, &[&code.to_le_bytes()[..], &count.to_le_bytes(), items].concat())
    }

    /// A tensor of this Hugging Face shape whose bytes are 0, 1, 2 …; `code` is its type.
    pub(crate) fn tensor(mut self, name: &str, shape: &[u64], code: u32, byte_count: usize) -> Self {
        let mut description = string(name);
        description.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|dim| description.extend(dim.to_le_bytes()));
        description.extend(code.to_le_bytes());
        description.extend(self.data.to_le_bytes());
        let mut bytes: Vec<u8> = (0..byte_count).map(|i| i as u8 & 0x3f).collect();
        bytes.resize(byte_count.next_multiple_of(32), 0);
        self.data += bytes.len() as u64;
        self.tensors.push((description, bytes));
        self
    }

    /// A tensor of a readable type, with as many bytes as it takes.
    pub(crate) fn typed(self, name: &str, shape: &[u64], code: u32) -> Self {
        let shape_usize: Vec<usize> = shape.iter().map(|&dim| dim as usize).collect();
        let bytes = GgmlType::from_code(code).unwrap().byte_count(name, &shape_usize).unwrap();
        self.tensor(name, shape, code, bytes)
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.metadata.len() as u64).to_le_bytes());
        self.metadata.iter().for_each(|entry| file.extend(entry));
        self.tensors.iter().for_each(|(description, _)| file.extend(description));
        file.resize(file.len().next_multiple_of(32), 0);
        self.tensors.iter().for_each(|(_, bytes)| file.extend(bytes));
        file
    }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// The metadata of a Llama with hidden size 64, two heads, one key-value head and one layer.
pub(crate) fn llama_metadata() -> Builder {
    metadata("llama").f32("llama.rope.freq_base", 1e5)
}

/// The same of any architecture, with the default base of the rotary frequencies.
pub(crate) fn metadata(name: &str) -> Builder {
    let key = |key: &str| format!("{name}.{key}");
    Builder::new()
        .str("general.architecture", name)
        .u32(&key("block_count"), 1)
        .u32(&key("context_length"), 128)
        .u32(&key("embedding_length"), 64)
        .u32(&key("feed_forward_length"), 96)
        .u32(&key("attention.head_count"), 2)
        .u32(&key("attention.head_count_kv"), 1)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-5)
        .u32(&key("vocab_size"), 10)
}

/// That Llama with all its tensors, of several types.
pub(crate) fn llama() -> Builder {
    tensors(llama_metadata())
}

/// The tensors of a plain Llama of [`metadata`]'s sizes.
pub(crate) fn tensors(metadata: Builder) -> Builder {
    metadata
        .typed("token_embd.weight", &[10, 64], 8)
        .typed("blk.0.attn_norm.weight", &[64], 0)
        .typed("blk.0.attn_q.weight", &[64, 64], 3)
        .typed("blk.0.attn_k.weight", &[32, 64], 0)
        .typed("blk.0.attn_v.weight", &[32, 64], 1)
        .typed("blk.0.attn_output.weight", &[64, 64], 2)
        .typed("blk.0.ffn_norm.weight", &[64], 0)
        .typed("blk.0.ffn_gate.weight", &[96, 64], 6)
        .typed("blk.0.ffn_up.weight", &[96, 64], 7)
        .typed("blk.0.ffn_down.weight", &[64, 96], 30)
        .typed("output_norm.weight", &[64], 0)
}

/// A byte-level tokenizer's metadata: the 256 bytes, three merges, two control tokens.
pub(crate) fn tokenizer(pre: &str) -> Builder {
    let mut tokens: Vec<String> = vec!["<|start|>".into(), "<|end|>".into()];
    let mut alphabet: Vec<char> =
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    tokens.extend(alphabet.iter().map(char::to_string));
    tokens.extend(["ab", "abc", "Ġa"].map(str::to_owned));
    let types: Vec<i32> = (0..tokens.len()).map(|id| if id < 2 { 3 } else { 1 }).collect();
    Builder::new()
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", pre)
        .strings("tokenizer.ggml.tokens", &tokens)
        .i32s("tokenizer.ggml.token_type", &types)
        .strings("tokenizer.ggml.merges", &["a b", "ab c", "Ġ a"])
        .u32("tokenizer.ggml.bos_token_id", 0)
        .u32("tokenizer.ggml.eos_token_id", 1)
}
