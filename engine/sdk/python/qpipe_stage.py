"""Stage types for qpipe in Python: one file, the standard library only.

A stage type is a function of a job and its parameters; a program with some of them is a plugin:

    from dataclasses import dataclass
    from pathlib import Path
    import qpipe_stage as qpipe

    @dataclass
    class Params:
        text: Path = qpipe.param("the text")
        top: int = qpipe.param("how many words", default=10, min=1)

    @qpipe.stage("tally", outputs={"table": "WORD COUNT, most frequent first"})
    def tally(job: qpipe.Job, params: Params):
        '''Counts the words of a file.'''
        ...
        job.output("table").write_text(...)

    if __name__ == "__main__":
        qpipe.main()

What a program prints goes to the log; the protocol (docs/protocol.md) has standard output for itself. A program can be tried
without the engine: `python3 tally.py --try tally text=a.txt --out DIR`.
"""

import dataclasses
import errno
import importlib.machinery
import inspect
import json
import math
import os
import struct
import sys
import sysconfig
import threading
import time
import traceback
import types
import typing
from pathlib import Path

__all__ = [
    "Blob", "Cancelled", "ConfigError", "DeviceError", "Input", "Job", "Metric", "OutOfDeviceMemory", "OutOfHostMemory",
    "StageError", "Tensor", "TransientError", "main", "param", "port", "read_safetensors", "stage", "write_safetensors",
]
__version__ = "0.2.0"

PROTOCOL, MINOR = 1, 1
LONGEST_MESSAGE = 1 << 20
# where messages go through files: seconds between looks, and how long the engine may be silent
LOOK, SILENCE = (0.002, 0.02), 30.0
# of a program with more files of its own than this, only those are told that are loaded when it begins
MOST_FILES = 1000


class StageError(Exception):
    """What a stage fails with. Any other exception is a defect of the plugin."""
    kind = "bug"


class ConfigError(StageError):
    """The study asks for something impossible; the message names it."""
    kind = "config"


class DeviceError(StageError):
    """There is no such device, or it cannot be used."""
    kind = "device"


class TransientError(StageError):
    """Worth trying again."""
    kind = "transient"


class OutOfHostMemory(StageError):
    kind = "oom-host"


class OutOfDeviceMemory(StageError):
    kind = "oom-device"


class Cancelled(BaseException):
    """The engine asked the job to stop. Raised by `Job.check` and `Job.progress`; let it pass."""


# ---------------------------------------------------------------------------------------------- describing a stage type

def param(doc, *, default=dataclasses.MISSING, min=None, max=None, applies=None, in_key=True):
    """A parameter, as a field of a dataclass: what it says, and which values it takes.

    Without a default a study must give it, unless its type is optional. `applies=("scheme", ["nf4"])`: it has an effect
    only while `scheme` is `nf4`. `in_key=False`: it only locates a file, or a device. A field that is a dataclass itself
    is a node with properties; its own class as the default gives each of them its default.
    """
    about = {"doc": doc, "min": min, "max": max, "applies": applies, "in_key": in_key}
    if isinstance(default, type) and dataclasses.is_dataclass(default):
        return dataclasses.field(default_factory=default, metadata={"qpipe": about})
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: default, metadata={"qpipe": about | {"default": default}})
    return dataclasses.field(default=default, metadata={"qpipe": about})


@dataclasses.dataclass(frozen=True)
class _Port:
    kind: str
    doc: str
    required: bool


def port(kind, doc, *, required=True):
    """What a stage reads of another: `files` of a command or plugin, `model`, `evaluation`, …; or the `metrics` of any."""
    return _Port(kind, doc, required)


_STAGES = {}


@dataclasses.dataclass(frozen=True)
class _Stage:
    kind: str
    run: typing.Callable
    params: typing.Optional[type]
    description: dict
    files: typing.Tuple[str, ...]
    check: typing.Optional[typing.Callable]
    numerics: typing.Optional[typing.Callable]
    estimate: typing.Optional[typing.Callable]


def stage(kind, *, outputs=None, output=None, inputs=None, semantics=1, determinism="exact", check=None, numerics=None,
          estimate=None):
    """Makes a function of a job and its parameters a stage type, described by the function's docstring.

    outputs: what it makes, each a file or a folder, with what it holds; or
    output: the kind of its one document, `out`; or `metrics`: what it tells is what it makes.
    semantics: raised whenever equal inputs may give other outputs than before.
    determinism: `exact` (equal inputs, equal bytes), `seeded`, or `measurement`, which needs `numerics`.
    check(params): rules that one parameter alone cannot state, as pairs of a parameter's name and what is wrong. The answer
    is kept: it must depend on the parameters and the files among them alone.
    numerics(params): what bytes depend on besides: a kind of device, or the machine that a measurement ran on.
    estimate(params): the bytes of host memory that a job takes; jobs wait until the machine has them.
    """
    if (outputs is None) == (output is None):
        raise TypeError(f"stage `{kind}`: either `outputs` or `output` says what it makes")
    if determinism == "measurement" and numerics is None:
        raise TypeError(f"stage `{kind}`: a measurement needs `numerics`, which says what it ran on")
    for name, one in (inputs or {}).items():
        if not isinstance(one, _Port):
            raise TypeError(f"stage `{kind}`: input `{name}` is a port: `port(\"files\", \"what it is\")`, not {one!r}")

    def register(function):
        params = _params_of(function, kind)
        made = {"kind": "files", "files": [{"name": n, "doc": d, "required": True} for n, d in (outputs or {}).items()]}
        description = {
            "kind": kind,
            "semantics": semantics,
            "doc": inspect.cleandoc(function.__doc__ or kind),
            "determinism": determinism,
            "inputs": [{"name": n, "doc": p.doc, "kind": p.kind, "required": p.required}
                       for n, p in (inputs or {}).items()],
            "output": made if outputs is not None else {"kind": output},
            "nodes": _nodes(params, kind),
            "keyed_by": "machine" if numerics else "params" if check else "nothing",
        }
        files = tuple(outputs) if outputs is not None else () if output == "metrics" else ("out",)
        _STAGES[kind] = _Stage(kind, function, params, description, files, check, numerics, estimate)
        return function

    return register


def _params_of(function, kind):
    """The dataclass that a stage's second argument is annotated with."""
    names = list(inspect.signature(function).parameters)
    if len(names) < 2:
        return None
    params = typing.get_type_hints(function).get(names[1])
    if not dataclasses.is_dataclass(params):
        raise TypeError(f"stage `{kind}`: annotate `{names[1]}` with a dataclass of its parameters")
    return params


def _word(name):
    return name.replace("_", "-")


def _nodes(params, kind):
    if params is None:
        return []
    hints = typing.get_type_hints(params)
    nodes = []
    for field in dataclasses.fields(params):
        hint, _ = _plain(hints[field.name])
        if dataclasses.is_dataclass(hint):
            props = [_described(f, typing.get_type_hints(hint)[f.name], kind) for f in dataclasses.fields(hint)]
            nodes.append({"name": _word(field.name), "form": "group", "doc": _about(field).get("doc", ""), "props": props})
        else:
            nodes.append({"form": "value"} | _described(field, hints[field.name], kind))
    return nodes


def _about(field):
    return field.metadata.get("qpipe", {})


def _described(field, hint, kind):
    plain, optional = _plain(hint)
    about = _about(field)
    told = {"name": _word(field.name), "doc": about.get("doc", ""), "type": _type(plain, about, f"{kind}.{field.name}")}
    default = about.get("default", field.default)
    if default is dataclasses.MISSING:
        told["required"] = not optional
    elif default is not None:
        told["default"] = str(default) if isinstance(default, Path) else default
    if about.get("applies"):
        told["applies"] = {"param": _word(about["applies"][0]), "values": list(about["applies"][1])}
    if not about.get("in_key", True):
        told["in_key"] = False
    return told


def _plain(hint):
    """A type without `Optional`, and whether it had it."""
    if typing.get_origin(hint) in (typing.Union, getattr(types, "UnionType", None)):
        some = [one for one in typing.get_args(hint) if one is not type(None)]
        if len(some) == 1:
            return some[0], True
    return hint, False


def _type(hint, about, where):
    bounds = {name: about[name] for name in ("min", "max") if about.get(name) is not None}
    if hint is bool:
        return "bool"
    if hint is int:
        return {"int": bounds}
    if hint is float:
        return {"float": bounds}
    if hint is str:
        return "text"
    if hint is Path:
        return "file"
    if typing.get_origin(hint) is typing.Literal:
        return {"choice": [str(one) for one in typing.get_args(hint)]}
    if typing.get_origin(hint) is list:
        return {"list": _type(typing.get_args(hint)[0], about, where)}
    raise TypeError(f"`{where}`: {hint} is no type of a parameter: bool, int, float, str, Path, Literal, list of these")


def _given(params, values, at=""):
    """An object of a dataclass of parameters from values by dotted path."""
    hints = typing.get_type_hints(params)
    given = {}
    for field in dataclasses.fields(params):
        hint, _ = _plain(hints[field.name])
        name = at + _word(field.name)
        if dataclasses.is_dataclass(hint):
            given[field.name] = _given(hint, values, name + ".")
        elif name in values:
            given[field.name] = _value(hint, values[name])
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            given[field.name] = None
    return params(**given)


def _value(hint, value):
    if hint is Path:
        return Path(value)
    if hint is float:
        return float(value)
    if typing.get_origin(hint) is list:
        return [_value(typing.get_args(hint)[0], one) for one in value]
    return value


# ------------------------------------------------------------------------------------------------------------- a job

@dataclasses.dataclass(frozen=True)
class Blob:
    """A file that must only be read."""
    digest: str
    path: Path


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number that another stage told. `paired`: how it differs from another model's on the same items, as the protocol has
    it."""
    name: str
    value: float
    unit: str = ""
    better: str = "neither"
    n: typing.Optional[int] = None
    stderr: typing.Optional[float] = None
    low: typing.Optional[float] = None
    high: typing.Optional[float] = None
    trivial: typing.Optional[float] = None
    paired: typing.Optional[dict] = None
    headline: bool = False

    @classmethod
    def _of(cls, told):
        real = lambda value: None if value is None else float(value)
        low, high = told.get("range") or (None, None)
        # what is not finite is spelled out
        paired = {k: float(v) if isinstance(v, str) and k != "port" else v for k, v in (told.get("paired") or {}).items()}
        return cls(told["name"], float(told["value"]), told.get("unit", ""), told.get("better", "neither"), told.get("n"),
                   real(told.get("stderr")), real(low), real(high), real(told.get("trivial")), paired or None,
                   told.get("headline", False))


class _Metrics(dict):
    """Metrics by name. One that is not there is the study's fault: it connects a stage that tells others."""

    def __init__(self, stage, told):
        super().__init__((one["name"], Metric._of(one)) for one in told)
        self.stage = stage

    def __missing__(self, name):
        known = ", ".join(f"`{one}`" for one in self)
        raise ConfigError(f"`{self.stage}` tells no metric `{name}`, {f'only {known}' if known else 'none'}")


@dataclasses.dataclass(frozen=True)
class Input:
    """What another stage made. Of `files`, `path` is a folder; of any other kind it is the root document, which refers to
    `refs`. All of it must only be read."""
    kind: str
    digest: str
    path: Path
    refs: typing.Tuple[Blob, ...] = ()

    def files(self):
        """All files of the folder, by name, in order."""
        return {str(file.relative_to(self.path)): file for file in sorted(self.path.rglob("*")) if file.is_file()}

    def json(self):
        """The root document."""
        return json.loads(self.path.read_text(encoding="utf-8"))

    def metrics(self):
        """Of `metrics`: what the other stage told, a `Metric` by name. `stage` of it is the stage's type."""
        document = self.json()
        return _Metrics(document["stage"], document["metrics"])

    def blob(self, digest):
        """The file of a digest in the document."""
        for ref in self.refs:
            if ref.digest == digest:
                return ref.path
        raise ConfigError(f"the {self.kind} refers to {digest}, which is not among its blobs")


class Job:
    """One run of a stage: what it reads, where it writes, and what it tells."""

    def __init__(self, message, say, stage, keeps_units=False):
        self._id, self._say, self._stage, self._outputs = message["id"], say, stage, {}
        self._stop, self._keeps_units = threading.Event(), keeps_units
        self._units = {name: Path(unit["path"]) for name, unit in (message.get("units") or {}).items()}
        self._untold = set(self._units)
        told = message.get("inputs") or {}
        blobs = lambda refs: tuple(Blob(ref["digest"], Path(ref["path"])) for ref in refs)
        self.inputs = {name: Input(i["kind"], i["digest"], Path(i["path"]), blobs(i.get("refs") or []))
                       for name, i in told.items()}
        self.sources = {name: Blob(s["digest"], Path(s["path"])) for name, s in (message.get("sources") or {}).items()}
        self.scratch = Path(message["scratch"])
        self.device = message["device"]
        # a number that follows from the job's key, for whatever draws; and the end of its time, as time.monotonic() counts
        self.seed = message.get("seed", 0)
        limit = message.get("deadline_ms")
        self.deadline = None if limit is None else time.monotonic() + limit / 1000

    def output(self, name, file=None):
        """Where an output is to be written: a file or a folder that the job makes. `file`: what it is called there."""
        self._declared(name)
        self._outputs[name] = {"path": file or name}
        return self._place(file or name)

    def output_of(self, name, unit):
        """Makes the file of a unit the output `name`."""
        self._declared(name)
        self._outputs[name] = self._of(unit)

    def blob(self, name):
        """Where a file is to be written that the document `out` refers to, and the text that stands for it there."""
        told = self._blob(name)
        self._outputs[told] = {"path": f"blobs/{name}"}
        return self._place(f"blobs/{name}"), told

    def blob_of(self, unit):
        """The text that stands for the file of a unit in the document `out`."""
        told = self._blob(unit)
        self._outputs[told] = self._of(unit)
        return told

    def unit(self, name, make):
        """The file of a part of the work: `make(path)` writes it, unless an earlier try of this very job did.

        Once written it is kept for good: when the job is killed, its next try finds it. It must only be read from here
        on. With the same name, the work must be the same: names tell the parts of one job from each other.
        """
        self.check()
        if name not in self._units:
            file = f"units/{name}"
            path = self._place(file)
            make(path)
            if not path.is_file():
                raise StageError(f"unit `{name}` was not written to {file}")
            self._units[name] = path
            self._say("checkpoint", id=self._id, name=name, cached=False, path=file)
        elif name in self._untold:
            self._say("checkpoint", id=self._id, name=name, cached=True)
        self._untold.discard(name)
        return self._units[name]

    def progress(self, done, total, what=""):
        """`done` of `total` modules, items, …"""
        self.check()
        self._say("progress", id=self._id, done=done, total=total, what=what)

    def metric(self, name, value, *, unit=None, better=None, n=None, stderr=None, headline=False, low=None, high=None,
               trivial=None):
        """A measured number. better: `higher`, `lower` or `neither`; headline: it stands in the study's table; low and
        high: its range; trivial: its value for the answer that takes no model."""
        told = {"name": name, "value": _number(value), "unit": unit, "better": better, "n": n}
        told["stderr"] = None if stderr is None else _number(stderr)
        told["trivial"] = None if trivial is None else _number(trivial)
        told["range"] = None if low is None or high is None else [_number(low), _number(high)]
        told["headline"] = True if headline else None
        self._say("metric", id=self._id, **{key: value for key, value in told.items() if value is not None})

    def log(self, message):
        """A line for the log."""
        self._say("log", id=self._id, message=str(message)[:LONGEST_MESSAGE // 8])

    def check(self):
        """Raises `Cancelled` if the engine asked the job to stop."""
        if self._stop.is_set():
            raise Cancelled

    def _declared(self, name):
        if name not in self._stage.files:
            if not self._stage.files:
                raise StageError(f"`{self._stage.kind}` makes what it tells, and no output `{name}`")
            raise StageError(f"`{self._stage.kind}` declares no output `{name}`, only {', '.join(self._stage.files)}")

    def _blob(self, name):
        if self._stage.files != ("out",):
            what = "files" if self._stage.files else "what it tells"
            raise StageError(f"`{self._stage.kind}` makes {what}, not a document with blobs")
        return f"blob:{name}"

    def _place(self, file):
        path = self.scratch / file
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _of(self, unit):
        """How the file of a unit is announced; an engine that keeps none takes it from the scratch folder."""
        if unit not in self._units:
            raise StageError(f"there is no unit `{unit}`")
        return {"unit": unit} if self._keeps_units else {"path": f"units/{unit}"}

    def _finish(self):
        for name, place in self._outputs.items():
            if "path" in place and not (self.scratch / place["path"]).exists():
                raise StageError(f"output `{name}` was not written to {place['path']}")
            self._say("artifact", id=self._id, name=name, **place)


def _number(value):
    value = float(value) if not isinstance(value, int) else value
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


# -------------------------------------------------------------------------------------------------------- conversation

class _Worker:
    def __init__(self, write, heartbeat=False):
        self.write, self.heartbeat, self.lock, self.job, self.minor = write, heartbeat, threading.Lock(), None, 0
        self.wake, self.queue, self.own = threading.Condition(), [], None

    def say(self, kind, **fields):
        line = json.dumps({"type": kind, **fields}, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        if len(line) > LONGEST_MESSAGE:
            raise StageError(f"a message `{kind}` of {len(line)} bytes is too long")
        with self.lock:
            self.write(line)

    def beat(self, seconds):
        """Says every so often that the process lives, until nobody listens."""
        try:
            while True:
                time.sleep(seconds)
                self.say("heartbeat")
        except OSError:
            pass

    def read(self, lines):
        """Reads what the engine says while a job runs, for a request to stop it. When the engine is gone, so is the worker."""
        code = 1
        try:
            for line in lines:
                if not line.strip():
                    continue
                message = json.loads(line)
                if message["type"] == "bye":
                    break
                if message["type"] == "heartbeat":
                    continue
                if message["type"] == "cancel":
                    job = self.job
                    if job is not None and job._id == message.get("id"):
                        job._stop.set()
                    continue
                with self.wake:
                    self.queue.append(message)
                    self.wake.notify()
            code = 0
        except Exception:
            print("what the engine said is no message:", file=sys.stderr)
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            # the other thread waits for questions that would never come
            os._exit(code)

    def serve(self):
        while True:
            with self.wake:
                while not self.queue:
                    self.wake.wait()
                message = self.queue.pop(0)
            self.answer(message)

    def answer(self, message):
        kind, id = message["type"], message.get("id")
        if self.own is None and kind in ("describe", "key", "run"):
            # before any job, so that what a job imports comes late
            self.own = _Own()
        if kind == "hello":
            versions = message["protocol"]
            if not versions["min"] <= PROTOCOL <= versions["max"]:
                self.say("error", **{"class": "bug", "message": f"this plugin speaks qstage {PROTOCOL}"})
                os._exit(1)
            self.minor = message.get("minor", 0)
            program = f"{Path(sys.argv[0]).name}, qpipe_stage {__version__}"
            estimates = any(stage.estimate for stage in _STAGES.values())
            can = ["key", "cancel", "resume"] + ["estimate"] * estimates + ["heartbeat"] * self.heartbeat
            self.say("hello", protocol=PROTOCOL, minor=MINOR, worker=program, capabilities=can)
            if self.heartbeat:
                seconds = message.get("heartbeat_ms", 2000) / 1000
                threading.Thread(target=self.beat, args=(seconds,), daemon=True).start()
        elif kind == "describe":
            stages = [one.description for one in _STAGES.values()]
            self.say("description", id=id, stages=stages, sources=self.own.files)
        elif kind in ("key", "estimate", "run"):
            try:
                {"key": self.key, "estimate": self.estimate, "run": self.run}[kind](message)
            except Cancelled:
                self.say("cancelled", id=id)
            except BaseException as error:
                # what a stage says by itself needs no trace of where
                if not isinstance(error, StageError):
                    traceback.print_exc()
                self.say("error", id=id, **{"class": _class(error, self.minor), "message": _told(error)})
            finally:
                self.job = None
        else:
            self.say("error", id=id, **{"class": "bug", "message": f"`{kind}` is no question that this plugin knows"})

    def key(self, message):
        stage, params = _asked(message)
        problems = stage.check(params) if stage.check else []
        told = {}
        if self.minor < 1:
            told["sources"] = {f"module:{file[:-3].replace('/', '.')}": path for file, path in self.own.files.items()}
        if problems:
            told["problems"] = [{"path": _word(path), "message": text} for path, text in problems]
        if stage.numerics:
            told["numerics"] = stage.numerics(params)
        self.say("keyed", id=message.get("id"), **told)

    def estimate(self, message):
        stage, params = _asked(message)
        told = {"host_bytes": int(stage.estimate(params))} if stage.estimate else {}
        self.say("estimated", id=message.get("id"), **told)

    def run(self, message):
        stage, params = _asked(message)
        lacking = [name for name in ("id", "scratch", "device") if name not in message]
        if lacking:
            raise StageError(f"a `run` without {', '.join(f'`{name}`' for name in lacking)}")
        self.job = job = Job(message, self.say, stage, keeps_units=self.minor >= 1)
        try:
            stage.run(*([job, params] if stage.params else [job]))
        except PermissionError as error:
            # the engine lets no job read code of the program that it was not told of
            if not self.own.is_untold(error.filename):
                raise
            raise _late(Path(error.filename).stem, error.filename) from error
        for module, file in self.own.late(job.scratch):
            raise _late(module, file)
        job._finish()
        self.say("done", id=message["id"])


def _late(module, file):
    return ConfigError(f"module `{module}` ({file}) is the program's own and was imported late, so that no key knows "
                       "its content; import it where the program begins")


def _asked(message):
    kind, values = message.get("stage"), message.get("params") or {}
    stage = _STAGES.get(kind) if isinstance(kind, str) else None
    if stage is None:
        missing = "the question names no stage" if kind is None else f"there is no stage `{kind}`"
        raise StageError(f"{missing}, only {', '.join(_STAGES)}")
    if not isinstance(values, dict):
        raise StageError(f"`params` of a question is an object, not {values!r}")
    return stage, _given(stage.params, values) if stage.params else None


class _Own:
    """The program's own files besides its script, whose content is part of what it is.

    They are the modules beside the program, and the package of each stage's function: all of them, as some may be
    imported late. In folders of other things, such as the interpreter's programs, they are those that are loaded.
    """

    def __init__(self):
        script = sys.argv[0]
        self.main, self.seen, self.strays = os.path.realpath(script), set(), []
        is_module = getattr(sys.modules["__main__"], "__spec__", None) is not None
        beside = Path(self.main).parent
        whole = [_package(sys.modules.get(name)) for name in
                 ["__main__"] * is_module + [stage.run.__module__ for stage in _STAGES.values()]]
        whole = [root for root in dict.fromkeys([*([] if is_module else [(beside, beside)]), *whole]) if root]
        # folders, and what names are relative to; a folder with a link in its path as it is spelled, too
        self.roots = whole + ([] if is_module else [(Path(os.path.abspath(script)).parent,) * 2])
        programs = {os.path.realpath(folder) for folder in (os.path.dirname(sys.executable), sysconfig.get_path("scripts"))}
        found = [file for folder, _ in whole if str(folder) not in programs for file in _code_in(folder, set())]
        self.files = {}
        for file in (found if len(found) <= MOST_FILES else []) + [file for _, file in self._loaded()]:
            name = self._name(file)
            while self.files.get(name, str(file)) != str(file):
                name = f"+{name}"
            if is_module or os.path.realpath(file) != self.main:
                self.files[name] = str(file)
        self.told = {self.main} | {os.path.realpath(file) for file in self.files.values()}

    def late(self, scratch):
        """Own modules, each with its file, that were loaded since and not told."""
        scratch = Path(os.path.realpath(scratch))
        self.strays += [(module, file) for module, file in self._loaded()
                        if os.path.realpath(file) not in self.told and scratch not in file.parents]
        return self.strays

    def is_untold(self, file):
        """Whether a file is an own module that was not told."""
        if not isinstance(file, str) or not file.endswith(_CODE):
            return False
        return self._name(_at(file)) is not None and os.path.realpath(file) not in self.told

    def _loaded(self):
        """Own modules that were loaded since this was asked last, each with its file."""
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and file not in self.seen:
                self.seen.add(file)
                there = next((one for one in (_at(file), Path(os.path.abspath(file))) if self._name(one)), None)
                if there is not None:
                    yield name, there

    def _name(self, file):
        """What an own file is called; `None` of another's."""
        for folder, base in self.roots:
            if file == folder or folder in file.parents and _is_own(file, folder):
                return file.relative_to(base).as_posix()
        return None


def _is_own(file, root):
    """Whether a file below a root is not one of an environment, or of a folder of data, that lies there as well."""
    if any(part.startswith(".") or part in _INSTALLED for part in file.relative_to(root).parts):
        return False
    others = [os.path.dirname(os.__file__), os.environ.get("TMPDIR"), os.environ.get("HOME")]
    others = [Path(os.path.realpath(other)) for other in others if other]
    return not any(other in file.parents and other not in (root, *root.parents) for other in others)


_INSTALLED = {"site-packages", "dist-packages"}
_CODE = (".py", *importlib.machinery.EXTENSION_SUFFIXES)


def _at(file):
    """Where a file lies; a link stays one, as it is a name beside the program."""
    return Path(os.path.realpath(os.path.dirname(file)), os.path.basename(file))


def _package(module):
    """The folder of the whole package of a module, or where it has none its own folder, or where others share that,
    itself; and what names are relative to. `None` of a program's script, or without a file."""
    spec, file = getattr(module, "__spec__", None), getattr(module, "__file__", None)
    if spec is None or not isinstance(file, str):
        return None
    file = _at(file)
    top, folder = None, file.parent
    while (folder / "__init__.py").exists():
        top, folder = folder, folder.parent
    if top is None and "." in spec.name:
        # a package without `__init__.py`
        top = file.parents[spec.name.count(".") - 1]
    if top is not None:
        return top, top.parent
    return (file if file.parent.name in _INSTALLED else file.parent), file.parent


def _code_in(folder, been):
    """The code of a folder and of the packages in it, tests left out."""
    real = os.path.realpath(folder)
    if os.path.isfile(folder):
        yield folder
    if real in been or not os.path.isdir(folder) or not os.access(folder, os.R_OK | os.X_OK):
        return
    been.add(real)
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if name.endswith(_CODE) and not name.startswith("test_") and os.path.isfile(path):
            yield path
        elif name.isidentifier() and os.path.isfile(path / "__init__.py"):
            yield from _code_in(path, been)


def _class(error, minor):
    if isinstance(error, DeviceError) and minor < 1:
        return "config"
    if isinstance(error, StageError):
        return error.kind
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) and minor >= 1:
        return "store"
    if isinstance(error, MemoryError):
        return "oom-host"
    return "oom-device" if type(error).__name__ == "OutOfMemoryError" else "bug"


def _told(error):
    text = str(error) or type(error).__name__
    return (text if isinstance(error, StageError) else f"{type(error).__name__}: {text}")[:LONGEST_MESSAGE // 8]


def main(heartbeat=False):
    """Serves the program's stage types to an engine, or tries one (`--try`).

    heartbeat: the engine takes the process for lost when it says nothing for 30 s, as one that hangs does. A thread says
    it, so it is for programs in which nothing holds Python's lock that long: sorting tens of millions of values does, and
    so may importing a large library from a slow disk.
    """
    if sys.argv[1:2] == ["--try"]:
        return _try(sys.argv[2:])
    if sys.argv[1:2] in (["--help"], ["-h"]):
        return print(_usage())
    folder = os.environ.get("QSTAGE_DIR")
    if folder:
        lines, write = _appended(Path(folder, "requests")), lambda line: _append(Path(folder, "replies"), line)
        sys.stdout.reconfigure(line_buffering=True)
    else:
        # whatever prints must not stand among the messages
        out, lines = os.fdopen(os.dup(1), "wb", buffering=0), os.fdopen(os.dup(0), encoding="utf-8")
        write = lambda line: _write(out, line)
        os.dup2(2, 1)
        sys.stdout = sys.stderr
    worker = _Worker(write, heartbeat)
    threading.Thread(target=worker.read, args=(lines,), daemon=True).start()
    worker.serve()


def _write(out, line):
    while line:
        line = line[out.write(line):]


def _append(path, line):
    # closed each time: only then does a network's file system show it to others
    with open(path, "ab", buffering=0) as file:
        _write(file, line)


def _appended(path):
    """The lines that the engine appends to a file; no more after a long silence, or when the file is gone."""
    at, rest, heard, wait = 0, b"", time.monotonic(), LOOK[0]
    while True:
        trouble = ""
        try:
            with open(path, "rb") as file:
                file.seek(at)
                new = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            # a network's file system recovers, or the engine has been silent for too long
            new, trouble = b"", f": {error}"
        *lines, rest = (rest + new).split(b"\n")
        for line in lines:
            yield line.decode()
        at += len(new)
        if lines:
            heard, wait = time.monotonic(), LOOK[0]
        elif time.monotonic() - heard > SILENCE:
            print(f"the engine has said nothing for {SILENCE:.0f} s{trouble}", file=sys.stderr)
            return
        else:
            time.sleep(wait)
            wait = min(wait * 1.5, LOOK[1])


def _try(args):
    """`KIND NAME=VALUE … [--input PORT=PATH] --out FOLDER`: runs a stage, and prints what it tells."""
    if not args or args[0] not in _STAGES:
        sys.exit(_usage())
    stage, values, inputs, out = _STAGES[args[0]], {}, {}, None
    rest = iter(args[1:])
    for word in rest:
        if word == "--out":
            out = Path(next(rest)).resolve()
        elif word == "--input":
            name, path = next(rest).split("=", 1)
            kinds = {one["name"]: one["kind"] for one in stage.description["inputs"]}
            inputs[name] = {"kind": kinds.get(name, "files"), "digest": "", "path": str(Path(path).resolve())}
        else:
            name, text = word.split("=", 1)
            values[name] = text
    if out is None:
        sys.exit("`--out` names the folder for what the stage makes")
    out.mkdir(parents=True, exist_ok=True)
    say = lambda kind, **fields: print(kind, json.dumps({k: v for k, v in fields.items() if k != "id"}))
    message = {"id": 1, "stage": stage.kind, "inputs": inputs, "scratch": str(out), "device": "auto"}
    job = Job(message, say, stage)
    params = _given(stage.params, _read(stage, values)) if stage.params else None
    stage.run(*([job, params] if stage.params else [job]))
    job._finish()


def _usage():
    lines = [f"A plugin of qpipe, which speaks with an engine on its standard input and output (qpipe_stage {__version__}).",
             f"Without one: {Path(sys.argv[0]).name} --try STAGE NAME=VALUE … [--input PORT=PATH] --out FOLDER"]
    for stage in _STAGES.values():
        lines += ["", f"{stage.kind}: {stage.description['doc'].splitlines()[0]}"]
        for node in stage.description["nodes"]:
            for name, told in _flat(node):
                value = f" [{json.dumps(told['default'], ensure_ascii=False)}]" if "default" in told else ""
                lines.append(f"  {name}={value}  {told['doc']}")
        lines += [f"  --input {one['name']}={'' if one['required'] else ' [none]'}  {one['kind']}: {one['doc']}"
                  for one in stage.description["inputs"]]
    return "\n".join(lines)


def _flat(node):
    """The parameters of a node, by dotted name."""
    if node["form"] == "value":
        return [(node["name"], node)]
    return [(f"{node['name']}.{prop['name']}", prop) for prop in node["props"]]


def _read(stage, values):
    """Values from a command line, by the types that the stage declares, with its defaults."""
    given, types_of = {}, {}
    for node in stage.description["nodes"]:
        for name, told in _flat(node):
            types_of[name] = told["type"]
            if "default" in told:
                given[name] = told["default"]
    for name, text in values.items():
        if name not in types_of:
            sys.exit(f"`{stage.kind}` has no parameter `{name}`, only {', '.join(types_of)}")
        given[name] = _parsed(types_of[name], text)
    return given


def _parsed(kind, text):
    if isinstance(kind, dict) and "list" in kind:
        return [_parsed(kind["list"], one) for one in text.split(",")]
    if isinstance(kind, dict) and "int" in kind:
        return int(text)
    if isinstance(kind, dict) and "float" in kind:
        return float(text)
    if kind == "bool":
        return {"true": True, "false": False}[text]
    return str(Path(text).resolve()) if kind == "file" else text


# --------------------------------------------------------------------------------------------------------- safetensors

_SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4,
          "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8}
_NUMPY = {"BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "F16": "<f2", "I32": "<i4", "U32": "<u4",
          "F32": "<f4", "I64": "<i8", "U64": "<u8", "F64": "<f8"}


@dataclasses.dataclass
class Tensor:
    """A tensor of a safetensors file: its dtype as that format spells it, its shape and its bytes, row-major."""
    dtype: str
    shape: typing.Tuple[int, ...]
    data: typing.Any

    def numpy(self):
        """As a numpy array; BF16, which numpy has not, widened to f32."""
        import numpy
        if self.dtype == "BF16":
            wide = numpy.frombuffer(self.data, "<u2").astype("<u4") << 16
            return wide.view("<f4").reshape(self.shape)
        return numpy.frombuffer(self.data, _NUMPY[self.dtype]).reshape(self.shape)

    @classmethod
    def of(cls, array, dtype=None):
        """Of a numpy array, in its own dtype, or as `BF16`: to the nearest, ties to even."""
        import numpy
        array = numpy.ascontiguousarray(array)
        if dtype == "BF16":
            bits = array.astype("<f4").view("<u4")
            rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
            quiet = (bits >> 16 | 0x40).astype("<u2")
            return cls("BF16", array.shape, numpy.where(numpy.isnan(array), quiet, rounded).astype("<u2").tobytes())
        names = {numpy.dtype(spelled): name for name, spelled in _NUMPY.items()}
        return cls(names[array.dtype.newbyteorder("<")], array.shape, array.tobytes())


def read_safetensors(path, names=None):
    """The tensors of a file by name, or those of these names alone. Their bytes lie in memory; those of a mapped file
    would keep it open."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors = {}
        for name in header if names is None else names:
            if name not in header:
                raise ConfigError(f"`{path}` has no tensor `{name}`")
            told = header[name]
            begin, end = told["data_offsets"]
            if end - begin != _SIZES[told["dtype"]] * math.prod(told["shape"]) or 8 + length + end > size:
                raise ConfigError(f"tensor `{name}` of `{path}` does not have the bytes of its shape")
            file.seek(8 + length + begin)
            tensors[name] = Tensor(told["dtype"], tuple(told["shape"]), file.read(end - begin))
    return tensors


def write_safetensors(path, tensors, metadata=None):
    """Writes tensors by name, each a `Tensor` or a numpy array; metadata: texts by name."""
    tensors = {name: one if isinstance(one, Tensor) else Tensor.of(one) for name, one in tensors.items()}
    header, at = {"__metadata__": metadata} if metadata else {}, 0
    for name, tensor in tensors.items():
        end = at + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for tensor in tensors.values():
            file.write(tensor.data)
