"""A qpipe plugin: scores a model with transformers, its linear layers quantized by bitsandbytes, as `evaluate` does: the
same weights, token ids, windows and questions, so that the numbers of both stand side by side. It needs torch and
transformers (4.56 or later), and bitsandbytes for every scheme but `none`, in the Python that runs it; nothing is
downloaded."""
import ctypes
import gc
import importlib.metadata
import importlib.util
import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional

import qpipe_stage as qpipe

FOUR_BIT = ["nf4", "fp4"]


@dataclass
class Texts:
    data: Optional[Path] = qpipe.param("Rows with `text` in JSON lines, or a plain text that does not begin with `{`.",
                                       default=None)
    window: int = qpipe.param("Tokens of a window, at most the model's context.", default=2048, min=2)
    join: bool = qpipe.param("#true: rows are joined by an empty line into one text. #false: every row is cut by itself.",
                             default=True)
    limit: Optional[int] = qpipe.param("Score only the first windows.", default=None, min=1)


@dataclass
class Questions:
    data: Optional[Path] = qpipe.param("Rows with `question`, `passage` and `answer` in JSON lines.", default=None)
    limit: Optional[int] = qpipe.param("Score only the first questions.", default=None, min=1)


@dataclass
class Params:
    scheme: Literal["none", "nf4", "fp4", "int8"] = qpipe.param("How bitsandbytes quantizes the linear layers, the output "
                                                                "head left out; 4 bits in blocks of 64.")
    double_quant: bool = qpipe.param("Quantize the scales too.", default=False, applies=("scheme", FOUR_BIT))
    threshold: float = qpipe.param("Activations from here on keep their columns out of the int8 product; 0: none.",
                                   default=6.0, min=0.0, applies=("scheme", ["int8"]))
    compute_dtype: Literal["inherit", "f32", "f16", "bf16"] = qpipe.param("Dtype of activations. `inherit`: the model's.",
                                                                          default="inherit")
    perplexity: Texts = qpipe.param("Windows of a text: `nll` and `ppl`.", default=Texts)
    boolq: Questions = qpipe.param("Yes or no questions: `acc`, `f1` and `margin`.", default=Questions)
    batch_tokens: int = qpipe.param("Tokens of one forward pass.", default=4096, min=1)
    device: Literal["auto", "cpu", "cuda"] = qpipe.param("`auto`: CUDA where there is a device.", default="auto",
                                                         in_key=False)


# ------------------------------------------------------------------------------------------------ what it runs on

def packages(scheme):
    return ["torch", "transformers"] + ["bitsandbytes"] * (scheme != "none")


def cuda_device():
    """The name of the first CUDA device, from the driver: that is at hand where torch takes seconds to load."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, name = ctypes.c_int(), ctypes.create_string_buffer(128)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    return None if driver.cuDeviceGetName(name, len(name), 0) else name.value.decode()


def takes_cuda(params):
    return params.device == "cuda" or (params.device == "auto" and cuda_device() is not None)


def numerics(params):
    """Versions and the kind of device. What is missing is told by the run: to plan is to ask what would run, not where."""
    def version(package):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return "none"

    told = [f"{package} {version(package)}" for package in packages(params.scheme)]
    return ", ".join([*told, f"cuda {cuda_device()}" if takes_cuda(params) else "cpu"])


def check(params):
    has_task = params.perplexity.data or params.boolq.data
    return [] if has_task else [("perplexity.data", "nothing to score: neither `perplexity` nor `boolq` has data")]


def torch_device(job, params):
    missing = [package for package in packages(params.scheme) if importlib.util.find_spec(package) is None]
    if missing:
        raise qpipe.ConfigError(
            "this stage needs torch, transformers and, for nf4, fp4 and int8, bitsandbytes; missing: "
            f"{', '.join(missing)}. `{sys.executable} -m pip install {' '.join(missing)}` installs what is missing for "
            "the Python that this study names, in its own environment: what `pip install --user` installs is not seen here")
    # nothing may come from outside the key
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    import torch
    on_cuda = takes_cuda(params) if job.device == "auto" else job.device.startswith("cuda")
    if not on_cuda:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise qpipe.DeviceError(f"torch {torch.__version__} cannot use the CUDA device `{cuda_device()}`; `device cpu` "
                                "does without one")
    return torch.device("cuda:0" if job.device == "auto" else job.device)


# -------------------------------------------------------------------------------------------------------- the model

CLASSES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
           "qwen3": "Qwen3ForCausalLM"}


def config_of(model):
    """The `config.json` of a model document."""
    config = dict(model["config"])
    kind, biases, window = config.pop("architecture"), config.pop("biases", {}), config.pop("sliding_window", None)
    others, scaling = config.pop("other_eos_token_ids", []), config.pop("rope_scaling", None)
    if kind not in CLASSES:
        raise qpipe.ConfigError(f"the model is a `{kind}`; this stage knows {', '.join(CLASSES)}")
    config |= {"model_type": kind, "architectures": [CLASSES[kind]], "hidden_act": "silu",
               "attention_bias": biases.get("qkv", False), "mlp_bias": biases.get("mlp", False)}
    if others:
        config["eos_token_id"] = [config["eos_token_id"], *others]
    if scaling:
        rope = {name: value for name, value in scaling.items() if name != "type"} | {"rope_type": scaling["type"]}
        if "factors" in rope:
            # factors that do not depend on the length are a longrope whose two lists agree
            factors = rope.pop("factors")
            rope |= {"rope_type": "longrope", "attention_factor": 1.0, "long_factor": factors, "short_factor": factors}
        config["rope_scaling"] = rope
    if kind in ("mistral", "qwen2", "qwen3"):
        config["sliding_window"] = window and window["size"]
    if kind in ("qwen2", "qwen3"):
        slides = set(window["layers"]) if window else set()
        config |= {"use_sliding_window": window is not None,
                   "layer_types": ["sliding_attention" if layer in slides else "full_attention"
                                   for layer in range(config["num_hidden_layers"])]}
    return config


def write_checkpoint(given, model, folder):
    """The model as a Hugging Face folder: the very weights that the document refers to, a file for each."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_of(model)))
    files, size, dtypes = {}, 0, set()
    for name, module in model["modules"].items():
        if module["encoding"]["scheme"] != "dense":
            raise qpipe.ConfigError(f"`{name}` is quantized; this stage takes the model before that")
        part = module["parts"]["weight"]
        tensor = name if name.endswith(".bias") else f"{name}.weight"
        files[tensor] = f"{tensor}.safetensors"
        read = qpipe.read_safetensors(given.blob(part["blob"]), [part["name"]])[part["name"]]
        qpipe.write_safetensors(folder / files[tensor], {tensor: read}, metadata={"format": "pt"})
        size, dtypes = size + len(read.data), dtypes | {part["dtype"]}
    index = {"metadata": {"total_size": size}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return dtypes


def torch_dtype(name):
    import torch
    return {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[name.lower()]


def load(job, params, device):
    """The model on its device: quantized from the dtype that the weights are stored in, everything else in the compute
    dtype."""
    import torch
    import transformers
    transformers.utils.logging.disable_progress_bar()
    given = job.inputs["model"]
    model = given.json()
    dtypes = write_checkpoint(given, model, job.scratch / "model")
    stored = torch_dtype(dtypes.pop() if len(dtypes) == 1 else "f32")
    inherits = params.compute_dtype == "inherit"
    compute = torch_dtype(model["compute_dtype"] if inherits else params.compute_dtype)
    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(
        job.scratch / "model", local_files_only=True, dtype=stored, output_loading_info=True)
    amiss = {what: sorted(report[what]) for what in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[what]}
    if amiss:
        raise qpipe.StageError(f"transformers read the model otherwise than it was written: {amiss}")
    loaded.eval().requires_grad_(False)
    for name, module in list(loaded.named_modules()) if params.scheme != "none" else []:
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            parent, _, leaf = name.rpartition(".")
            setattr(loaded.get_submodule(parent), leaf, quantized(module, params, compute).to(device))
            job.check()
    for parameter in loaded.parameters():
        # codes are integers
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(compute)
    return loaded.to(device)


def quantized(module, params, compute):
    """The layer as one of bitsandbytes, which encodes its weight once it is moved."""
    import bitsandbytes
    sizes = {"bias": module.bias is not None, "device": "meta"}
    nn, weight = bitsandbytes.nn, module.weight.data
    if params.scheme == "int8":
        layer = nn.Linear8bitLt(module.in_features, module.out_features, has_fp16_weights=False,
                                threshold=params.threshold, **sizes)
        layer.weight = nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        kind = {"compress_statistics": params.double_quant, "quant_type": params.scheme}
        layer = nn.Linear4bit(module.in_features, module.out_features, compute_dtype=compute, **kind, **sizes)
        layer.weight = nn.Params4bit(weight, requires_grad=False, blocksize=64, module=layer, **kind)
    layer.bias = module.bias
    return layer


def release(loaded, device):
    """Gives memory back: the process stays for the next job, and others use the device meanwhile."""
    loaded.clear()
    gc.collect()
    if device.type == "cuda":
        import torch
        torch.cuda.empty_cache()


# ------------------------------------------------------------------------------------- what is asked, as `evaluate` asks

class Encoder:
    """Token ids as `evaluate` makes them: what the tokenizer adds by itself, but never two BOS in a row."""

    def __init__(self, given, model):
        import tokenizers
        self.tokenizer = tokenizers.Tokenizer.from_file(str(given.blob(model["tokenizer"])))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.bos = model["config"]["bos_token_id"]

    def ids(self, text):
        ids = self.tokenizer.encode(text).ids
        return ids[1:] if self.bos is not None and ids[:2] == [self.bos, self.bos] else ids


class Row(dict):
    def __missing__(self, name):
        raise qpipe.ConfigError(f"a row has no field `{name}`; there are {', '.join(self)}")


def rows(data):
    """The rows of a file in JSON lines; `None` where it is a plain text."""
    if data.startswith(b"PAR1"):
        raise qpipe.ConfigError("this stage reads JSON lines and plain texts, not parquet")
    if not data.lstrip().startswith(b"{"):
        return None
    try:
        return [Row(json.loads(line)) for line in data.split(b"\n") if line.strip()]
    except ValueError as error:
        raise qpipe.ConfigError(f"a line of the data is no JSON object: {error}")


def windows(asked, encoder, longest):
    """Every window as its first token and those after it, which are scored."""
    if asked.window > longest:
        raise qpipe.ConfigError(f"window {asked.window} is longer than the model's context of {longest}")
    data = asked.data.read_bytes()
    found = rows(data)
    texts = [data.decode()] if found is None else [row["text"] for row in found]
    cut = []
    for text in ["\n\n".join(texts)] if asked.join else texts:
        if asked.limit and len(cut) >= asked.limit:
            break
        ids = encoder.ids(text)
        pieces = (ids[at:at + asked.window] for at in range(0, len(ids), asked.window))
        cut += [[(piece[:1], piece[1:])] for piece in pieces if len(piece) > 1]
    if not cut:
        raise qpipe.ConfigError("the text has fewer than two tokens")
    return cut[:asked.limit]


def questions(asked, encoder):
    """Every question as its two answers, no and yes, after it; and the right ones."""
    items, labels = [], []
    for row in (rows(asked.data.read_bytes()) or [])[:asked.limit]:
        prompt = f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"
        context = encoder.ids(prompt)
        items.append([(context, encoder.ids(prompt + answer)[len(context):]) for answer in (" no", " yes")])
        labels.append(int(row["answer"] if "answer" in row else row["label"]))
    if not items:
        raise qpipe.ConfigError("the file has no questions in JSON lines")
    return items, labels


def scores(job, params, model, device, items, longest, what):
    """The log-likelihood of every continuation. Sequences of one length share a pass, so that nothing is padded."""
    import torch
    asked = []
    for item, requests in enumerate(items):
        for place, (context, continuation) in enumerate(requests):
            asked.append(((context + continuation)[-longest - 1:], len(continuation), item, place))
    asked.sort(key=lambda one: len(one[0]))
    found, done = [[0.0] * len(requests) for requests in items], 0
    while done < len(asked):
        length = len(asked[done][0])
        most = max(params.batch_tokens // length, 1)
        batch = [one for one in asked[done:done + most] if len(one[0]) == length]
        ids = torch.tensor([ids for ids, *_ in batch], device=device)
        with torch.inference_mode():
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
            sums = []
            for row, (_, tokens, *_) in enumerate(batch):
                likely = torch.log_softmax(logits[row, -tokens:].float(), dim=-1)
                sums.append(likely.gather(1, ids[row, -tokens:, None]).double().sum())
        for (_, _, item, place), value in zip(batch, torch.stack(sums).tolist()):
            found[item][place] = value
        done += len(batch)
        job.progress(done, len(asked), what)
    return found


# ------------------------------------------------------------------------------------------------------------ figures

def resampled(n, statistic):
    """Standard errors of several statistics of `n` items: the bootstrap of `evaluate`, from the same draws."""
    if n < 2:
        return None
    state, mask, values = 0x9E3779B97F4A7C15, (1 << 64) - 1, []
    for _ in range(1000):
        sample = []
        for _ in range(n):
            state = (state + 0x9E3779B97F4A7C15) & mask
            z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
            sample.append((z ^ (z >> 31)) % n)
        values.append(statistic(sample))
    deviations = []
    for column in zip(*values):
        mean = sum(column) / len(column)
        deviations.append(math.sqrt(sum((value - mean) ** 2 for value in column) / (len(column) - 1)))
    return deviations


def tell_texts(job, losses, tokens):
    def value(sample):
        nll = sum(losses[i] for i in sample) / sum(tokens[i] for i in sample)
        return nll, math.exp(nll) if nll < 700 else math.inf

    nll, ppl = value(range(len(losses)))
    errors = resampled(len(losses), value) or [None, None]
    job.metric("perplexity.nll", nll, unit="nat", better="lower", n=sum(tokens), stderr=errors[0], headline=True)
    job.metric("perplexity.ppl", ppl, better="lower", n=sum(tokens), stderr=errors[1], headline=True)


def tell_questions(job, likely, labels):
    n, said = len(labels), [int(yes > no) for no, yes in likely]

    def f1(said, sample):
        right = sum(said[i] and labels[i] for i in sample)
        return [2 * right / max(sum(said[i] + labels[i] for i in sample), 1)]

    share, yes = sum(a == b for a, b in zip(said, labels)) / n, sum(labels) / n
    stderr = math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else None
    errors = resampled(n, lambda sample: f1(said, sample)) or [None]
    job.metric("boolq.acc", share, better="higher", n=n, stderr=stderr, trivial=max(yes, 1 - yes), headline=True)
    job.metric("boolq.f1", f1(said, range(n))[0], better="higher", n=n, stderr=errors[0],
               trivial=f1([1] * n, range(n))[0], headline=True)
    job.metric("boolq.margin", sum(b - a for a, b in likely) / n, unit="nat", better="neither", n=n)


@qpipe.stage("peer", inputs={"model": qpipe.port("model", "The model to evaluate, not quantized yet.")},
             outputs={"items": "JSON lines: the log-likelihood of every window and answer"},
             determinism="seeded", check=check, numerics=numerics)
def peer(job: qpipe.Job, params: Params):
    """Scores a model with transformers and bitsandbytes, as `evaluate` does."""
    device = torch_device(job, params)
    given = job.inputs["model"]
    document = given.json()
    encoder, longest = Encoder(given, document), document["config"]["max_position_embeddings"]
    tasks, labels = {}, None
    if params.perplexity.data:
        tasks["perplexity"] = windows(params.perplexity, encoder, longest)
    if params.boolq.data:
        tasks["boolq"], labels = questions(params.boolq, encoder)
    loaded, log = [], []
    try:
        for task, items in tasks.items():
            def make(path):
                if not loaded:
                    loaded.append(load(job, params, device))
                path.write_text(json.dumps(scores(job, params, loaded[0], device, items, longest, task)))

            # a task is a unit: a run that is killed goes on with the task it was at
            likely = json.loads(job.unit(task, make).read_text())
            tokens = [[len(continuation) for _, continuation in requests] for requests in items]
            log += [{"task": task, "id": i, "log_likelihoods": likely[i], "tokens": tokens[i]} for i in range(len(items))]
            if task == "perplexity":
                tell_texts(job, [-sum(one) for one in likely], [sum(one) for one in tokens])
            else:
                tell_questions(job, likely, labels)
    finally:
        release(loaded, device)
    job.output("items", "items.jsonl").write_text("".join(json.dumps(one) + "\n" for one in log))


qpipe.main()
