"""Stage types for the kit's tests."""

import errno
import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import List, Literal, Optional

import neighbour
import qpipe_stage as qpipe


@dataclass
class Style:
    indent: int = qpipe.param("spaces", default=0, min=0, max=8)


@dataclass
class Words:
    text: Path = qpipe.param("the text")
    top: int = qpipe.param("how many", default=10, min=1)
    ratio: float = qpipe.param("a share", default=1.0, min=0.0, max=1.0)
    skip: List[str] = qpipe.param("not these", default=[])
    title: Optional[str] = qpipe.param("what it is called", default=None)
    scheme: Literal["nf4", "int8"] = qpipe.param("a scheme", default="nf4")
    block: int = qpipe.param("its block", default=64, applies=("scheme", ["nf4"]))
    device: str = qpipe.param("where", default="auto", in_key=False)
    style: Style = qpipe.param("how it looks", default=Style)


def wrong(params):
    return [("title", "a title is not empty")] if params.title == "" else []


@qpipe.stage("words", outputs={"table": "the words"}, inputs={"also": qpipe.port("files", "more", required=False)},
             check=wrong, estimate=lambda params: 1000 * params.top)
def words(job: qpipe.Job, params: Words):
    """Lists the words of files."""
    print("no message")
    os.write(1, b"no message either\n")
    subprocess.run(["echo", "nor this"], check=True)
    texts = [params.text] + (list(job.inputs["also"].files().values()) if "also" in job.inputs else [])
    found = [word for text in texts for word in text.read_text().split() if word not in params.skip]
    job.progress(1, 1, "files")
    line = " " * params.style.indent + neighbour.joined(found[:params.top])
    job.output("table", "made/table.txt").write_text(line)
    job.metric("words", len(found), unit="words", better="higher", n=len(texts), stderr=float("nan"), low=0,
               high=float("inf"), trivial=0.5, headline=True)


@dataclass
class Failure:
    how: str = qpipe.param("how")


@qpipe.stage("fail", outputs={"out": "nothing"})
def fail(job: qpipe.Job, params: Failure):
    """Fails."""
    class OutOfMemoryError(RuntimeError):
        """As torch has it."""

    errors = {
        "config": qpipe.ConfigError("no"), "transient": qpipe.TransientError("later"), "host": MemoryError(),
        "device": OutOfMemoryError("full"), "defect": KeyError("glue"), "kit": qpipe.OutOfDeviceMemory("too much"),
        "absent": qpipe.DeviceError("no GPU"), "disk": OSError(errno.ENOSPC, "full"),
    }
    if params.how in errors:
        raise errors[params.how]
    if params.how == "undeclared":
        job.output("other")


@dataclass
class Book:
    pages: List[str] = qpipe.param("the pages")
    stop_after: int = qpipe.param("dies then", default=100)


@qpipe.stage("book", output="book")
def book(job: qpipe.Job, params: Book):
    """Makes pages, each a unit."""
    names = []
    for number, page in enumerate(params.pages):
        if number == params.stop_after:
            os._exit(9)

        def make(path):
            job.log(f"making {page}")
            path.write_text(page.upper())

        path = job.unit(f"page/{page}", make)
        assert path.read_text() == page.upper()
        assert job.unit(f"page/{page}", make) == path, "told once"
        names.append(job.blob_of(f"page/{page}"))
        job.progress(number + 1, len(params.pages), "pages")
    cover, blob = job.blob("cover")
    cover.write_text("C")
    job.output("out").write_text(json.dumps({"pages": names, "cover": blob}))


@qpipe.stage("page", outputs={"page": "one page"}, determinism="measurement", numerics=lambda params: "this machine")
def page(job: qpipe.Job):
    """An output that is a unit."""
    job.unit("only", lambda path: path.write_text("P"))
    job.output_of("page", "only")


@qpipe.stage("told", output="metrics", inputs={"of": qpipe.port("metrics", "numbers"),
                                               "and": qpipe.port("metrics", "more", required=False)})
def told(job: qpipe.Job):
    """Tells what another stage told, and what it makes of it."""
    numbers = job.inputs["of"].metrics()
    for one in numbers.values():
        job.log(repr(one))
    job.metric(numbers.stage, numbers["f1"].value)
    job.output("out")


@qpipe.stage("lost", outputs={"page": "one page"})
def lost(job: qpipe.Job):
    """A unit that is not written."""
    job.unit("only", lambda path: None)


@qpipe.stage("wait", outputs={"out": "nothing"})
def wait(job: qpipe.Job):
    """Waits to be stopped."""
    job.log("waiting")
    while True:
        time.sleep(0.002)
        job.check()


qpipe.main(heartbeat="QPIPE_TEST_BEATS" in os.environ)
