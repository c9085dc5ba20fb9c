"""A plugin whose files change while it runs: `edits.py LOG`. What stands in the file `edit` beside it says which, and when."""

import json
import sys
from pathlib import Path

VERSION = 1
HERE = Path(__file__).parent
HELPER, EDIT = HERE / "helper.txt", HERE / "edit"


def note(text):
    with open(sys.argv[1], "a", encoding="utf-8") as log:
        log.write(text)


def say(kind, **fields):
    print(json.dumps({"type": kind, **fields}), flush=True)


def edit(what):
    """Once."""
    if EDIT.exists() and EDIT.read_text() == what:
        EDIT.unlink()
        return True
    return False


HELP = HELPER.read_text()
STAGE = {
    "kind": "edits",
    "semantics": 1,
    "doc": HELP,
    "keyed_by": "params",
    "determinism": "exact",
    "output": {"kind": "files", "files": [{"name": "out"}]},
    "nodes": [{"name": "book", "form": "value", "type": "file"}, {"name": "how", "form": "value", "type": "text", "default": ""}],
}

note("s")
if edit("script"):
    me = Path(__file__)
    me.write_text(me.read_text().replace("VERSION = 1", "VERSION = 2", 1))
if edit("helper"):
    HELPER.write_text("helps more")
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "hello":
        say("hello", protocol=1, minor=1, worker="edits 1", capabilities=["key"])
    elif message["type"] == "describe":
        note("d")
        say("description", id=message["id"], stages=[STAGE], sources={"helper": str(HELPER)})
    elif message["type"] == "key":
        note("k")
        if edit("book"):
            (HERE / "book.txt").write_text("other")
        say("keyed", id=message["id"], problems=[])
    elif message["type"] == "run":
        note("r")
        how = message["params"]["how"]
        if how == "overwrite":
            Path(message["params"]["book"]).write_text("mine")
        print(f"about to {how or 'work'}", file=sys.stderr, flush=True)
        if how == "raise":
            print("Traceback (most recent call last):\n  here", file=sys.stderr, flush=True)
            say("error", id=message["id"], **{"class": "bug"}, message="ValueError: no")
            continue
        Path(message["scratch"], "out").write_text(f"{VERSION} {HELP}")
        say("artifact", id=message["id"], name="out", path="out")
        say("done", id=message["id"])
