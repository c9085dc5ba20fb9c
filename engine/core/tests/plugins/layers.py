"""A plugin on the kit with units. The file `stop` beside it says after how many new ones it kills itself."""

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import qpipe_stage as qpipe

HOME = Path(__file__).resolve().parent


@dataclass
class Params:
    seed: int = qpipe.param("what is written", default=1)


@qpipe.stage("layers", output="book")
def layers(job: qpipe.Job, params: Params):
    """Writes a book of four layers."""
    new, names = [], [f"layers.{number}/weight" for number in range(4)]

    def make(path):
        path.write_text(f"{params.seed}\n")
        new.append(path)

    for number, name in enumerate(names):
        job.unit(name, make)
        with open(HOME / "did", "a") as did:
            did.write(f"{name} {len(new)}\n")
        if (HOME / "stop").exists() and len(new) == int((HOME / "stop").read_text()):
            os.kill(os.getpid(), signal.SIGKILL)
        job.progress(number + 1, len(names), "layers")
    job.output("out").write_text(json.dumps({name: job.blob_of(name) for name in names}))


qpipe.main()
