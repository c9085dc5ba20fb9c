"""A qpipe plugin in plain Python: counts the words of a file. See docs/protocol.md for the protocol."""

import json
import os
import re
import sys

STAGE = {
    "kind": "tally",
    "semantics": 1,
    "doc": "counts the words of a file",
    "determinism": "exact",
    "inputs": [{"name": "also", "doc": "more text", "kind": "files", "required": False}],
    "output": {"kind": "files", "files": [{"name": "table", "doc": "WORD COUNT, most frequent first"}]},
    "nodes": [
        {"name": "text", "doc": "the text", "form": "value", "type": "file", "required": True},
        {"name": "top", "doc": "how many words", "form": "value", "type": {"int": {"min": 1}}, "default": 10},
    ],
}


def say(kind, **fields):
    print(json.dumps({"type": kind, **fields}), flush=True)


def run(job):
    paths = [job["params"]["text"]]
    for port in job["inputs"].values():
        paths += sorted(os.path.join(port["path"], name) for name in os.listdir(port["path"]))
    counts = {}
    for done, path in enumerate(paths, 1):
        with open(path, encoding="utf-8") as text:
            for word in re.findall(r"[a-z]+", text.read().lower()):
                counts[word] = counts.get(word, 0) + 1
        say("progress", id=job["id"], done=done, total=len(paths), what="files")
    rows = sorted(counts.items(), key=lambda row: (-row[1], row[0]))[: job["params"]["top"]]
    with open(os.path.join(job["scratch"], "table.tsv"), "w", encoding="utf-8") as table:
        table.writelines(f"{word}\t{count}\n" for word, count in rows)
    say("metric", id=job["id"], name="distinct", value=len(counts), headline=True)
    say("artifact", id=job["id"], name="table", path="table.tsv")
    say("done", id=job["id"])


for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "hello":
        say("hello", protocol=1, worker="tally 1.0")
    elif message["type"] == "describe":
        say("description", id=message["id"], stages=[STAGE])
    elif message["type"] == "run" and message.get("stage") == "tally":
        try:
            run(message)
        except (OSError, UnicodeDecodeError) as error:
            say("error", id=message["id"], **{"class": "config", "message": str(error)})
    else:
        say("error", id=message.get("id"), **{"class": "bug", "message": "this plugin knows no such thing"})
