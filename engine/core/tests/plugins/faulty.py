"""A plugin that does wrong what its parameter `how` says."""

import json
import os
import signal
import sys
import threading
import time

STAGE = {
    "kind": "faulty",
    "semantics": 1,
    "determinism": "exact",
    "output": {"kind": "files", "files": [{"name": "out"}, {"name": "extra", "required": False}]},
    "nodes": [{"name": "how", "form": "value", "type": "text", "required": True}],
}


def say(kind, **fields):
    print(json.dumps({"type": kind, **fields}), flush=True)


def beat(every):
    while True:
        time.sleep(every)
        say("heartbeat")


def run(job):
    how, id, path = job["params"]["how"], job["id"], os.path.join(job["scratch"], "out")
    open(path, "w").write(f"{os.getpid()}\n")
    if how == "kill":
        print("about to go", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exit":
        sys.exit("no device")
    elif how == "orphan":
        if os.fork():
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(1000)
    elif how == "garbage":
        print("Loading weights: 100%", flush=True)
    elif how == "long":
        print("x" * (2 << 20), flush=True)
    elif how == "unknown":
        say("dance", id=id)
    elif how == "job":
        say("done", id=id + 1)
    elif how in ("hang", "deaf"):
        if how == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
    elif how == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif how == "undeclared":
        say("artifact", id=id, name="surprise", path="out")
    elif how == "twice":
        say("artifact", id=id, name="out", path="out")
    elif how == "absent":
        os.remove(path)
    elif how == "outside":
        return say("artifact", id=id, name="out", path="../../../../../../../../etc/hostname") or say("done", id=id)
    elif how in ("config", "oom-device", "oom-host", "transient", "bug"):
        return say("error", id=id, **{"class": how, "message": f"a case of {how}"})
    if how != "missing":
        say("artifact", id=id, name="out", path="out")
    say("done", id=id)


for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "hello":
        if "mute" in sys.argv:
            time.sleep(1000)
        if "newer" in sys.argv:
            say("hello", protocol=2, worker="faulty")
        capabilities = ["heartbeat", "telepathy"] if "alive" in sys.argv else []
        capabilities += ["estimate", "key"] if "knowing" in sys.argv else []
        say("hello", protocol=1, worker="faulty", capabilities=capabilities, mood="fine")
        if "alive" in sys.argv:
            threading.Thread(target=beat, args=[message["heartbeat_ms"] / 1000], daemon=True).start()
    elif message["type"] == "describe":
        say("description", id=message["id"], stages=[STAGE])
    elif message["type"] == "estimate":
        say("estimated", id=message["id"], host_bytes=5 << 30)
    elif message["type"] == "key":
        how = message["params"]["how"]
        problems = [{"path": "how", "message": "not like this"}] if how == "badly" else []
        say("keyed", id=message["id"], numerics="abacus", sources={"self": sys.argv[0]}, problems=problems)
    elif message["type"] == "run":
        run(message)
