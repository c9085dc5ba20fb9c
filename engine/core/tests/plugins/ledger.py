"""A plugin that notes in a file that it was started and asked: `ledger.py LOG [WORD…]`.

`params`, `machine`, `nothing`: what it says its keys depend on. `old`: it says nothing that is newer than qstage 1.0.
"""

import json
import sys
from pathlib import Path

HELPER = Path(__file__).parent / "helper.txt"
LOG, WORDS = sys.argv[1], sys.argv[2:]


def note(text):
    with open(LOG, "a", encoding="utf-8") as log:
        log.write(text)


def say(kind, **fields):
    print(json.dumps({"type": kind, **fields}), flush=True)


def describe():
    doc = HELPER.read_text() if HELPER.exists() else "no helper"
    stage = {
        "kind": "ledger",
        "semantics": 1,
        "doc": doc,
        "determinism": "measurement" if "measurement" in WORDS else "exact",
        "output": {"kind": "files", "files": [{"name": "out"}]},
        "nodes": [
            {"name": "entry", "form": "value", "type": "text", "default": "none"},
            {"name": "book", "form": "value", "type": "file"},
        ],
    }
    keyed_by = [word for word in WORDS if word in ("params", "machine", "nothing")]
    if "old" in WORDS:
        return {"stages": [stage]}
    if keyed_by:
        stage["keyed_by"] = keyed_by[0]
    return {"stages": [stage], "sources": {"helper": str(HELPER)} if HELPER.exists() else {}}


note("s")
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "hello":
        minor = {} if "old" in WORDS else {"minor": 1}
        say("hello", protocol=1, worker="ledger 1", capabilities=["key"], **minor)
    elif message["type"] == "describe":
        note("d")
        say("description", id=message["id"], **describe())
    elif message["type"] == "key":
        note("k")
        problems = [{"path": "entry", "message": "not this"}] if message["params"]["entry"] == "bad" else []
        say("keyed", id=message["id"], numerics="ink", problems=problems)
    elif message["type"] == "run":
        note("r")
        Path(message["scratch"], "out").write_text(message["params"]["entry"])
        say("artifact", id=message["id"], name="out", path="out")
        say("done", id=message["id"])
