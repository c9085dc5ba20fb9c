"""A qpipe plugin: sets the smallest weights of every linear layer to zero (magnitude pruning; Han et al. 2015, arXiv
1506.02626). The model's other tensors stay the blobs that they are."""
import array
import json
import math
from dataclasses import dataclass

import qpipe_stage as qpipe

# a value's bits without its sign order as magnitudes do, whatever the width
BITS = {"BF16": ("H", 0x7FFF), "F16": ("H", 0x7FFF), "F32": ("I", 0x7FFFFFFF)}


@dataclass
class Params:
    sparsity: float = qpipe.param("The part of each layer's weights that becomes zero.", default=0.5, min=0.0, max=1.0)


def pruned(tensor, sparsity):
    """The tensor with its smallest magnitudes zero, the first of equal ones first."""
    code, magnitude = BITS[tensor.dtype]
    values = array.array(code, bytes(tensor.data))
    count = int(len(values) * sparsity)
    if count == 0:
        return tensor
    limit = sorted(value & magnitude for value in values)[count - 1]
    ties = count - sum((value & magnitude) < limit for value in values)
    for i, value in enumerate(values):
        size = value & magnitude
        if size < limit or (size == limit and ties > 0):
            ties -= size == limit
            values[i] = 0
    return qpipe.Tensor(tensor.dtype, tensor.shape, values.tobytes())


@qpipe.stage("prune", output="model", inputs={"model": qpipe.port("model", "The model to prune, not quantized yet.")})
def prune(job: qpipe.Job, params: Params):
    """Sets the smallest weights of every linear layer to zero."""
    given = job.inputs["model"]
    model = given.json()
    layers = [(name, module) for name, module in model["modules"].items()
              if len(module["shape"]) == 2 and name != "model.embed_tokens"]
    zeros = weights = 0
    for done, (name, module) in enumerate(layers):
        if module["encoding"]["scheme"] != "dense":
            raise qpipe.ConfigError(f"`{name}` is quantized; prune the model first")
        part = module["parts"]["weight"]
        if part["dtype"] not in BITS:
            raise qpipe.ConfigError(f"`{name}` is {part['dtype']}, not {', '.join(BITS)}")

        def make(path):
            tensor = qpipe.read_safetensors(given.blob(part["blob"]), [part["name"]])[part["name"]]
            qpipe.write_safetensors(path, {"weight": pruned(tensor, params.sparsity)})

        # each layer is a unit: a run that is killed goes on with the layer it was at
        job.unit(name, make)
        module["parts"]["weight"] = part | {"blob": job.blob_of(name), "name": "weight"}
        count = math.prod(module["shape"])
        zeros, weights = zeros + int(count * params.sparsity), weights + count
        job.progress(done + 1, len(layers), "layers")
    job.output("out").write_text(json.dumps(model))
    job.metric("sparsity", zeros / max(weights, 1), headline=True)


qpipe.main()
