"""A plugin whose jobs are made of units. The file `stop` beside it says after how many new ones to end, and how: `2 kill`,
`2 hang`; each new one is a line in `did`."""

import json
import os
import signal
import sys
import time

HOME = os.path.dirname(os.path.abspath(sys.argv[0]))
NODES = [
    {"name": "seed", "form": "value", "type": {"int": {}}, "default": 1},
    {"name": "how", "form": "value", "type": "text", "default": "well"},
]
STAGES = [
    {
        "kind": "steps",
        "semantics": 1,
        "determinism": "exact",
        "output": {"kind": "files", "files": [{"name": "last"}, {"name": "all"}]},
        "nodes": NODES,
    },
    {"kind": "sheet", "semantics": 1, "determinism": "exact", "output": {"kind": "book"}, "nodes": NODES},
]


def say(kind, **fields):
    print(json.dumps({"type": kind, **fields}), flush=True)


def unit(job, new, number):
    """The text of a unit: as it was kept, or made now."""
    name, kept = f"part/{number}", job.get("units", {})
    if name in kept:
        say("checkpoint", id=job["id"], name=name, cached=True)
        return open(kept[name]["path"]).read()
    text, file = f"{job['params']['seed']}:{number}\n", f"part-{number}"
    open(os.path.join(job["scratch"], file), "w").write(text)
    open(os.path.join(HOME, "did"), "a").write(text)
    say("checkpoint", id=job["id"], name=name, path=file)
    new.append(name)
    stop = os.path.join(HOME, "stop")
    if os.path.exists(stop):
        after, how = open(stop).read().split()
        if len(new) == int(after):
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(1000)
    return text


def steps(job):
    new, id = [], job["id"]
    text = "".join(unit(job, new, number) for number in range(4))
    open(os.path.join(job["scratch"], "all"), "w").write(text)
    say("artifact", id=id, name="all", path="all")
    say("artifact", id=id, name="last", unit="part/3")
    say("done", id=id)


def sheet(job):
    id, page = job["id"], lambda name, text: open(os.path.join(job["scratch"], name), "w").write(text)
    page("page", "words\n")
    page("root", json.dumps({"page": "blob:page", "strange": "sha256:" + "0" * 64}))
    say("checkpoint", id=id, name="page", path="page")
    say("checkpoint", id=id, name="root", path="root")
    say("artifact", id=id, name="blob:page", unit="page")
    say("artifact", id=id, name="out", unit="root")
    say("done", id=id)


def wrong(job, how):
    id, path = job["id"], os.path.join(job["scratch"], "out")
    open(path, "w").write("out\n")
    told = {"name": "a", "path": "out"}
    if how == "traversal":
        told["path"] = "../../../../../../../../etc/hostname"
    elif how == "absolute":
        told["path"] = "/etc/hostname"
    elif how == "missing":
        told["path"] = "nowhere"
    elif how == "link":
        os.symlink("/etc/hostname", path + "-link")
        told["path"] = "out-link"
    elif how == "fifo":
        os.mkfifo(path + "-fifo")
        told["path"] = "out-fifo"
    elif how == "folder":
        os.mkdir(path + "-folder")
        told["path"] = "out-folder"
    elif how == "name":
        told["name"] = "../a"
    elif how == "root":
        told["name"] = "/a"
    elif how == "long":
        told["name"] = "a" * 1_000_000
    say("checkpoint", id=id, **told)
    if how == "twice":
        say("checkpoint", id=id, **told)
    elif how == "unknown":
        say("artifact", id=id, name="last", unit="b")
    elif how == "both":
        say("artifact", id=id, name="last", path="out", unit="a")
    elif how == "neither":
        say("artifact", id=id, name="last")
    say("artifact", id=id, name="all", path="out")
    say("done", id=id)


for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "hello":
        capabilities = [] if "old" in sys.argv else ["resume"]
        say("hello", protocol=1, minor=1, worker="steps 1.0", capabilities=capabilities)
    elif message["type"] == "describe":
        say("description", id=message["id"], stages=STAGES)
    elif message["type"] == "run":
        how = message["params"]["how"]
        if how != "well":
            wrong(message, how)
        else:
            {"steps": steps, "sheet": sheet}[message["stage"]](message)
