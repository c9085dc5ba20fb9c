//! A checkpoint with the shapes of Llama-3.1-8B, streamed to NF4, beside a plain copy of the same files.
//!
//! The checkpoint is random and made on the spot, so that nothing has to be downloaded: what a stream costs depends on
//! shapes and bytes, not on what a model knows. Each step runs in a process of its own: the copy, `qpipe run` of a
//! manifest that loads (links and hashes) and `qpipe run` of one that quantizes what was loaded. Each starts from the
//! page cache that the step before it left. The disk must have room for twice the checkpoint.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use qpipe_cache::Store;
use qpipe_formats::LlamaConfig;
use qpipe_stages::embedded;

/// First argument of this binary when it plays the program.
const AS_QPIPE: &str = "--as-qpipe";
/// First argument of this binary when it copies: the target and the files follow.
const AS_COPY: &str = "--as-copy";
/// Environment variable: where a step leaves its peak memory.
const PEAKS: &str = "STREAM_8B_PEAKS";

/// How often the memory of a step is looked at.
const TICK: Duration = Duration::from_millis(20);
/// Bytes written or copied at once.
const BUFFER: usize = 1 << 20;
/// Most bytes of a shard's tensors.
const SHARD: u64 = 4 << 30;

/// Layers of the whole model.
const LAYERS: usize = 32;
/// `config.json` of Llama-3.1-8B, but for the number of layers.
const CONFIG: &str = r#"{
  "architectures": ["LlamaForCausalLM"],
  "attention_bias": false,
  "bos_token_id": 128000,
  "eos_token_id": 128001,
  "head_dim": 128,
  "hidden_act": "silu",
  "hidden_size": 4096,
  "intermediate_size": 14336,
  "max_position_embeddings": 131072,
  "mlp_bias": false,
  "model_type": "llama",
  "num_attention_heads": 32,
  "num_hidden_layers": LAYERS,
  "num_key_value_heads": 8,
  "rms_norm_eps": 1e-05,
  "rope_scaling": {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3"
  },
  "rope_theta": 500000.0,
  "tie_word_embeddings": false,
  "torch_dtype": "bfloat16",
  "vocab_size": 128256
}
"#;

const LOAD: &str = "qpipe 1 name=stream\nload base {\n    from path=\"model\"\n}\n";
const QUANTIZE: &str = "quantize weights {\n    model base\n    scheme nf4 block=64\n}\n";

const STEPS: [&str; 3] = ["copy", "load", "quantize"];

#[derive(Parser)]
struct Arguments {
    /// Most GiB of weights: as many layers as fit, all 32 in 16 GiB.
    #[arg(long, default_value_t = 16)]
    gib: u64,
    /// Where the checkpoint, its copy and the store go, in a folder that is removed at the end.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Measured runs of each step.
    #[arg(long, default_value_t = 1)]
    repeat: usize,
}

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let role = args.next();
    match role.as_deref().and_then(OsStr::to_str) {
        Some(AS_QPIPE) => watched(|| {
            qpipe_cli::main_with(&qpipe_stages::registry(), std::iter::once("qpipe".into()).chain(args))
        }),
        Some(AS_COPY) => watched(|| exit(copy(&args.map(PathBuf::from).collect::<Vec<_>>()))),
        _ => exit(measure(&Arguments::parse())),
    }
}

fn exit(result: io::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    // nothing is left to do where standard error is closed
    let _closed = writeln!(io::stderr(), "error: {error}");
    ExitCode::FAILURE
}

fn measure(arguments: &Arguments) -> io::Result<()> {
    let dir = tempfile::Builder::new().prefix("stream_8b-").tempdir_in(&arguments.dir)?;
    // the folder goes either way, and the first error is the one to tell
    compare(dir.path(), arguments).and(dir.close())
}

fn compare(dir: &Path, arguments: &Arguments) -> io::Result<()> {
    let checkpoint = Checkpoint::make(&dir.join("model"), arguments.gib.saturating_mul(1 << 30))?;
    let (layers, shards, input) = (checkpoint.layers, checkpoint.shards.len(), checkpoint.bytes()?);
    writeln!(io::stdout(), "{layers} layers, {shards} shards, {input} bytes")?;
    fs::write(dir.join("load.kdl"), LOAD)?;
    fs::write(dir.join("quantize.kdl"), format!("{LOAD}{QUANTIZE}"))?;
    let rounds = (0..arguments.repeat.max(1)).map(|_| round(dir, &checkpoint));
    table(&rounds.collect::<io::Result<Vec<_>>>()?, input)
}

/// Each of [`STEPS`] once; only the checkpoint is left.
fn round(dir: &Path, checkpoint: &Checkpoint) -> io::Result<[Sample; 3]> {
    let copy = run_copy(dir, checkpoint)?;
    let load = run_qpipe(dir, "load.kdl", "base")?;
    let quantize = run_qpipe(dir, "quantize.kdl", "weights")?;
    fs::remove_dir_all(dir.join("store"))?;
    Ok([copy, load, quantize])
}

fn run_copy(dir: &Path, checkpoint: &Checkpoint) -> io::Result<Sample> {
    let target = dir.join("copy");
    let mut command = child(AS_COPY)?;
    command.arg(&target).args(&checkpoint.shards);
    let sample = Sample::of(&mut command, dir)?;
    let stored = fs::metadata(&target)?.len();
    // its pages and its space are the next step's
    fs::remove_file(&target)?;
    Ok(Sample { stored, ..sample })
}

/// Runs one stage and nothing else: what it needs must be cached already, or the run fails.
fn run_qpipe(dir: &Path, manifest: &str, stage: &str) -> io::Result<Sample> {
    let store = dir.join("store");
    let mut command = child(AS_QPIPE)?;
    command.arg("run").arg(dir.join(manifest)).args(["--only", stage]).arg("--store").arg(&store);
    let sample = Sample::of(&mut command, dir)?;
    let usage = Store::open(&store).map_err(io::Error::other)?.du();
    Ok(Sample { stored: usage.owned_bytes(), ..sample })
}

/// This binary in another role.
fn child(role: &str) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(role).stdin(Stdio::null());
    Ok(command)
}

/// A plain copy of files into one, on the disk at the end. By hand: `std::io::copy` lets the file system clone or move
/// bytes within the kernel, which is less than to read and to write them.
fn copy(paths: &[PathBuf]) -> io::Result<()> {
    let [target, files @ ..] = paths else { return Err(io::Error::other("there is nothing to copy to")) };
    let (mut out, mut buffer) = (File::create(target)?, vec![0; BUFFER]);
    for path in files {
        let mut file = File::open(path)?;
        while let read @ 1.. = file.read(&mut buffer)? {
            out.write_all(&buffer[..read])?;
        }
    }
    out.sync_all()
}

/// What one step took.
#[derive(Clone, Copy)]
struct Sample {
    time: Duration,
    /// Most anonymous memory, KiB, looked at every [`TICK`].
    anonymous_kib: u64,
    /// Most resident memory, KiB; mapped files count where they were touched.
    resident_kib: u64,
    /// Bytes on the disk when it ended, the checkpoint apart.
    stored: u64,
}

impl Sample {
    /// Runs a command that leaves its peaks; `stored` is for the caller to fill in.
    fn of(command: &mut Command, dir: &Path) -> io::Result<Self> {
        let peaks = dir.join("peaks");
        command.env(PEAKS, &peaks);
        let clock = Instant::now();
        let output = command.output()?;
        let time = clock.elapsed();
        if !output.status.success() {
            let (status, text) = (output.status, String::from_utf8_lossy(&output.stderr));
            return Err(io::Error::other(format!("a step failed ({status}): {text}")));
        }
        let (anonymous_kib, resident_kib) = read_peaks(&peaks)?;
        fs::remove_file(&peaks)?;
        Ok(Self { time, anonymous_kib, resident_kib, stored: 0 })
    }
}

fn read_peaks(path: &Path) -> io::Result<(u64, u64)> {
    let text = fs::read_to_string(path)
        .map_err(|error| io::Error::other(format!("a step left no peak memory: {error}")))?;
    let numbers = text.split_once(' ').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    numbers.ok_or_else(|| io::Error::other(format!("`{text}` is no peak memory")))
}

fn table(rounds: &[[Sample; 3]], input: u64) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "step       seconds (median [min–max])   GB/s of input   anonymous MiB   resident MiB   bytes stored"
    )?;
    let mut medians = [0.0; STEPS.len()];
    for (at, step) in STEPS.iter().enumerate() {
        let samples: Vec<Sample> = rounds.iter().map(|round| round[at]).collect();
        let mut seconds: Vec<f64> = samples.iter().map(|sample| sample.time.as_secs_f64()).collect();
        seconds.sort_unstable_by(f64::total_cmp);
        let (median, least, most) = (seconds[seconds.len() / 2], seconds[0], seconds[seconds.len() - 1]);
        let largest = |of: fn(&Sample) -> u64| samples.iter().map(of).max().unwrap_or(0);
        let mib = |kib: u64| kib as f64 / 1024.0;
        let (anonymous, resident) = (mib(largest(|s| s.anonymous_kib)), mib(largest(|s| s.resident_kib)));
        let (rate, stored) = (input as f64 / median / 1e9, largest(|s| s.stored));
        let spread = format!("{median:.2} [{least:.2}–{most:.2}]");
        writeln!(
            out,
            "{step:<9}  {spread:<26}   {rate:>13.3}   {anonymous:>13.1}   {resident:>12.1}   {stored:>12}"
        )?;
        medians[at] = median;
    }
    let [copy, _, quantize] = medians;
    writeln!(out, "quantize took {:.2} times the copy's time", quantize / copy)
}

/// The most anonymous memory that was seen, KiB.
static ANONYMOUS_KIB: AtomicU64 = AtomicU64::new(0);

/// Does a step's work and leaves the peaks of this process where the parent asked for them.
fn watched(work: impl FnOnce() -> ExitCode) -> ExitCode {
    let _ends_with_the_process = std::thread::spawn(watch);
    let exit = work();
    if let Some(path) = std::env::var_os(PEAKS) {
        let peaks = format!("{} {}", ANONYMOUS_KIB.load(Ordering::Relaxed), status_kib("VmHWM:"));
        // where it cannot be written, the parent misses it
        let _missed = fs::write(path, peaks);
    }
    exit
}

fn watch() {
    loop {
        ANONYMOUS_KIB.fetch_max(status_kib("RssAnon:"), Ordering::Relaxed);
        std::thread::sleep(TICK);
    }
}

/// A size that the kernel counted for this process, KiB; 0 where it does not.
fn status_kib(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0)
}

/// A name and a shape.
type Tensor = (String, Vec<usize>);

/// Bytes of a tensor in bf16.
fn bytes((_, shape): &Tensor) -> u64 {
    2 * shape.iter().product::<usize>() as u64
}

fn sum(tensors: &[Tensor]) -> u64 {
    tensors.iter().map(bytes).sum()
}

/// A Hugging Face folder of random weights.
struct Checkpoint {
    layers: usize,
    shards: Vec<PathBuf>,
}

impl Checkpoint {
    /// Makes one with as many layers as `budget` bytes of weights allow.
    fn make(dir: &Path, budget: u64) -> io::Result<Self> {
        let config = fitting(budget)?;
        let layers = config.num_hidden_layers;
        fs::create_dir(dir)?;
        fs::write(dir.join("config.json"), config_json(layers))?;
        fs::write(dir.join("tokenizer.json"), tokenizer()?)?;
        let (parts, mut random) = (split(config.expected_tensors()), Random(1));
        let (mut shards, mut places) = (Vec::new(), Vec::new());
        for (at, tensors) in parts.iter().enumerate() {
            let name = format!("model-{:05}-of-{:05}.safetensors", at + 1, parts.len());
            write_shard(&dir.join(&name), tensors, &mut random)?;
            places.extend(tensors.iter().map(|(tensor, _)| format!(r#""{tensor}":"{name}""#)));
            shards.push(dir.join(name));
        }
        let (total, map) = (parts.iter().map(|tensors| sum(tensors)).sum::<u64>(), places.join(","));
        let index = format!(r#"{{"metadata":{{"total_size":{total}}},"weight_map":{{{map}}}}}"#);
        fs::write(dir.join("model.safetensors.index.json"), index)?;
        Ok(Self { layers, shards })
    }

    /// Bytes of all shards.
    fn bytes(&self) -> io::Result<u64> {
        self.shards.iter().map(|path| fs::metadata(path).map(|meta| meta.len())).sum()
    }
}

fn config_json(layers: usize) -> String {
    CONFIG.replace("LAYERS", &layers.to_string())
}

fn config(layers: usize) -> io::Result<LlamaConfig> {
    LlamaConfig::from_hf_json(config_json(layers).as_bytes()).map_err(io::Error::other)
}

/// The model with as many layers as fit.
fn fitting(budget: u64) -> io::Result<LlamaConfig> {
    let whole = config(LAYERS)?;
    let layer = sum(&whole.layer_tensors(0));
    let rest = sum(&whole.expected_tensors()) - LAYERS as u64 * layer;
    let layers = budget.saturating_sub(rest) / layer;
    if layers == 0 {
        let least = (rest + layer).div_ceil(1 << 30);
        return Err(io::Error::other(format!("`--gib` must be at least {least}, for one layer")));
    }
    config(LAYERS.min(layers as usize))
}

/// A small one, which fits into any larger vocabulary.
fn tokenizer() -> io::Result<&'static [u8]> {
    let found = embedded::TINY.iter().find(|file| file.name == "tokenizer.json").map(|file| file.bytes);
    found.ok_or_else(|| io::Error::other("the embedded model has no `tokenizer.json`"))
}

/// Tensors in order, in shards of at most [`SHARD`] bytes.
fn split(tensors: Vec<Tensor>) -> Vec<Vec<Tensor>> {
    let (mut shards, mut shard, mut filled) = (Vec::new(), Vec::new(), 0);
    for tensor in tensors {
        let size = bytes(&tensor);
        if filled + size > SHARD {
            shards.push(std::mem::take(&mut shard));
            filled = 0;
        }
        filled += size;
        shard.push(tensor);
    }
    shards.push(shard);
    shards
}

/// Writes a safetensors file a piece at a time; it is on the disk at the end. `qpipe_formats` writes tensors that are in
/// memory or mapped, which these never are.
fn write_shard(path: &Path, tensors: &[Tensor], random: &mut Random) -> io::Result<()> {
    let (mut file, header) = (File::create(path)?, header(tensors));
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    let (mut left, mut buffer) = (sum(tensors), vec![0; BUFFER]);
    while left > 0 {
        random.fill(&mut buffer);
        let piece = left.min(BUFFER as u64);
        file.write_all(&buffer[..piece as usize])?;
        left -= piece;
    }
    file.sync_all()
}

/// The JSON header, padded with spaces so that the data is aligned.
fn header(tensors: &[Tensor]) -> Vec<u8> {
    let (mut fields, mut start) = (Vec::with_capacity(tensors.len()), 0);
    for tensor in tensors {
        let (end, (name, shape)) = (start + bytes(tensor), tensor);
        fields
            .push(format!(r#""{name}":{{"dtype":"BF16","shape":{shape:?},"data_offsets":[{start},{end}]}}"#));
        start = end;
    }
    let mut header = format!("{{{}}}", fields.join(",")).into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    header
}

/// SplitMix64 (Steele, Lea and Flood 2014), four values of bf16 at a time.
struct Random(u64);

impl Random {
    /// Sign, mantissa and the low three bits of the exponent are random, its high bits fixed: magnitudes from 2⁻¹⁵ to
    /// 2⁻⁷, all finite.
    fn fill(&mut self, buffer: &mut [u8]) {
        const FREE: u64 = 0x83ff_83ff_83ff_83ff;
        const FIXED: u64 = 0x3800_3800_3800_3800;
        let (words, _) = buffer.as_chunks_mut::<8>();
        for word in words {
            *word = ((self.word() & FREE) | FIXED).to_le_bytes();
        }
    }

    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
