"""A plugin that tries what its parameters say, and tells in `out` what came of it, and in `pid` who tried."""

import json
import os
import socket
import sys
from pathlib import Path


def say(kind, **fields):
    print(json.dumps({"type": kind, **fields}), flush=True)


def connect(at):
    socket.create_connection(("127.0.0.1", int(at)), timeout=5).close()


def bind(at):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", int(at)))


def abstract(at):
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect("\0" + at)


def append(at):
    with open(at, "a", encoding="utf-8") as file:
        file.write("more")


TRY = {
    "read": lambda at: Path(at).read_bytes(),
    "list": os.listdir,
    "append": append,
    "make": lambda at: os.close(os.open(at, os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
    "truncate": lambda at: os.truncate(at, 0),
    "remove": os.remove,
    "move": lambda at: os.rename(at, at + "-moved"),
    "kill": lambda at: os.kill(int(at), 0),
    "connect": connect,
    "bind": bind,
    "abstract": abstract,
    "nothing": lambda at: None,
}
STAGE = {
    "kind": "pry",
    "semantics": 1,
    "determinism": "exact",
    "inputs": [{"name": "given", "kind": "files", "required": False}],
    "output": {"kind": "files", "files": [{"name": "out"}, {"name": "pid"}]},
    "nodes": [
        {"name": "how", "form": "value", "type": "text"},
        {"name": "at", "form": "value", "type": "text", "default": ""},
        {"name": "book", "form": "value", "type": "file"},
        {"name": "loud", "form": "value", "type": "bool", "default": False},
    ],
}


def run(job):
    params, scratch = job["params"], Path(job["scratch"])
    given = job["inputs"].get("given", {}).get("path", "")
    places = {
        "GIVEN": given,
        "BOOK": params.get("book", ""),
        "SELF": os.path.abspath(__file__),
        "SCRATCH": str(scratch),
        "LOG": os.readlink("/proc/self/fd/2"),
    }
    at = params["at"]
    for name, place in places.items():
        at = at.replace(name, place)
    try:
        TRY[params["how"]](at)
        said = "done"
    except OSError as error:
        if params["loud"]:
            return say("error", id=job["id"], **{"class": "bug"}, message=f"PermissionError: {error}")
        said = type(error).__name__
    for name, text in [("out", said), ("pid", str(os.getpid()))]:
        (scratch / name).write_text(text)
        say("artifact", id=job["id"], name=name, path=name)
    say("done", id=job["id"])


for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "hello":
        say("hello", protocol=1, minor=1, worker="pry 1", capabilities=[])
    elif message["type"] == "describe":
        say("description", id=message["id"], stages=[STAGE], sources={})
    elif message["type"] == "run":
        run(message)
