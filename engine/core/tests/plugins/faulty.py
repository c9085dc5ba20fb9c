"""A plugin that does wrong what its parameter `how` says."""

import ctypes
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


def swap(out, scratch, target):
    """Makes a folder, of which a child swaps the folders with links to a folder outside, again and again."""
    exchange = ctypes.CDLL(None, use_errno=True).renameat2
    os.remove(out)
    pairs = [(os.path.join(out, f"k{at}"), os.path.join(scratch, f"l{at}")) for at in range(400)]
    for folder, link in pairs:
        os.makedirs(folder)
        open(os.path.join(folder, "x"), "w").write("harmless")
        os.symlink(target, link)
    if not os.fork():
        while True:
            for folder, link in pairs:
                exchange(-100, folder.encode(), -100, link.encode(), 2)


def run(job):
    how, id, path = job["params"]["how"], job["id"], os.path.join(job["scratch"], "out")
    open(path, "w").write(f"{os.getpid()}\n")
    if how.startswith("names "):
        json.dump({"parts": [{"blob": how.split()[1]}]}, open(path, "w"))
    if how.startswith("seed"):
        open(path, "w").write(f"{job['seed']} {job.get('deadline_ms')}")
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
    elif how == "absolute":
        return say("artifact", id=id, name="out", path="/etc/hostname") or say("done", id=id)
    elif how in ("link", "fifo", "folder-link"):
        os.remove(path)
        if how == "fifo":
            os.mkfifo(path)
        elif how == "link":
            os.symlink("/etc/hostname", path)
        else:
            os.mkdir(path)
            os.symlink("/etc/hostname", os.path.join(path, "a"))
    elif how.startswith("swaps "):
        swap(path, job["scratch"], how.split()[1])
        return say("artifact", id=id, name="out", path="out") or say("done", id=id)
    elif how == "utf8":
        sys.stdout.buffer.write(b'{"type":"log","id":%d,"message":"\xff\xfe"}\n' % id)
        sys.stdout.buffer.flush()
    elif how == "deep":
        print('{"type":"done","id":%d,"x":%s%s}' % (id, "[" * 200, "]" * 200), flush=True)
    elif how == "hundred":
        print('{"type":"log","id":%d,"message":"deep","x":%s%s}' % (id, "[" * 99, "]" * 99), flush=True)
    elif how == "name":
        say("artifact", id=id, name="n" * 1_000_000, path="out")
    elif how == "metric-name":
        say("metric", id=id, name="n" * 1_000_000, value=1)
    elif how == "metrics":
        for number in range(10_001):
            say("metric", id=id, name=f"m{number}", value=number)
    elif how == "chatter":
        for number in range(30_000):
            say("log", id=id, message=f"line {number}")
    elif how == "announces":
        say("artifact", id=id, name="out", path="out")
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "last-words":
        say("artifact", id=id, name="out", path="out")
        say("done", id=id)
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "done-twice":
        say("artifact", id=id, name="out", path="out")
        say("done", id=id)
    elif how == "changing":
        with open(path, "wb") as out:
            out.truncate(256 << 20)
        if not os.fork():
            with open(path, "r+b", buffering=0) as out:
                while True:
                    out.write(b"x")
                    time.sleep(0.001)
    elif how == "children":
        child = os.fork()
        if not child:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(1000)
        print(f"child {child}", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
    elif how == "stderr":
        for number in range(200):
            sys.stderr.write("x" * 999_999 + "\n")
        sys.stderr.write("the last line\n")
        sys.stderr.flush()
    elif how in ("memory", "shared"):
        held = bytearray(b"x") * (300 << 20)
        if how == "shared":
            for _ in range(2):
                if not os.fork():
                    time.sleep(1000)
            time.sleep(0.5)
        else:
            time.sleep(1000)
        held.clear()
    elif how == "busy":
        while True:
            say("progress", id=id, done=1, total=2, what="nothing")
    elif how in ("config", "oom-device", "oom-host", "transient", "bug"):
        return say("error", id=id, **{"class": how, "message": f"a case of {how}"})
    if how not in ("missing", "done-twice", "last-words"):
        say("artifact", id=id, name="out", path="out")
    say("done", id=id)


if "document" in sys.argv:
    STAGE["output"] = {"kind": "book"}
if "die-hello" in sys.argv:
    sys.exit("no hello")
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
    elif f"die-{message['type']}" in sys.argv:
        sys.exit("no answer")
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
if "stays" in sys.argv:
    time.sleep(1000)
