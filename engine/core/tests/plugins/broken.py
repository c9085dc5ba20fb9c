"""A sound plugin, and the same with the defect that its argument names. It shouts parts of a text."""

import json
import os
import queue
import subprocess
import sys
import threading
import time

DEFECT = sys.argv[1] if len(sys.argv) > 1 else "none"
IN_FULL = {"none": ["cancel", "heartbeat", "resume"], "ignores-cancel": ["cancel"], "deaf-after-cancel": ["cancel"],
           "no-heartbeat": ["heartbeat"], "silent-job": ["heartbeat"], "redoes-units": ["resume"],
           "changes-unit": ["resume"], "hides-units": ["resume"], "other-with-units": ["resume"]}
CAPABILITIES = ["key"] + IN_FULL.get(DEFECT, [])
STAGE = {
    "kind": "Two Words" if DEFECT == "bad-name" else "shout",
    "semantics": 1,
    "doc": f"shouts a text, says {os.getpid()}" if DEFECT == "unstable-description" else "shouts a text",
    "determinism": "exact",
    "keyed_by": "moon" if DEFECT == "keyed-by-moon" else "params",
    "inputs": [{"name": "more", "doc": "more text", "kind": "files"}],
    "output": {"kind": "files", "files": [{"name": "loud", "doc": "the text", "required": True},
                                          {"name": "parts", "doc": "it in parts", "required": False}]},
    "nodes": [
        {"name": "text", "doc": "" if DEFECT == "no-doc" else "the text", "form": "value", "type": "file",
         "required": True},
        {"name": "parts", "doc": "how many", "form": "value", "default": 4,
         "type": "colour" if DEFECT == "bad-type" else {"int": {"min": 1}}},
    ],
}
if DEFECT == "stray-digest":
    STAGE["output"] = {"kind": "song"}
LOCK, STOP, JOBS = threading.Lock(), threading.Event(), queue.Queue()
working = 0


def write(line):
    with LOCK:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def say(kind, **fields):
    write(json.dumps({"type": kind, **fields}).encode() + b"\n")


def beat(every):
    while True:
        time.sleep(every)
        if not (DEFECT == "silent-job" and working):
            say("heartbeat")


def part(job, number, text):
    """A part of the output, made or found."""
    name = f"part-{number}"
    path, found = os.path.join(job["scratch"], name), job.get("units", {}).get(name)
    if found and DEFECT not in ("redoes-units", "hides-units"):
        made = open(found["path"]).read() + ("!" if DEFECT == "other-with-units" else "")
        open(path, "w").write(made)
        return say("checkpoint", id=job["id"], name=name, cached=True)
    if "cancel" in CAPABILITIES or DEFECT == "silent-job" and number == 0:
        time.sleep({"ignores-cancel": 0.4, "silent-job": 1.0, "deaf-after-cancel": 0.5}.get(DEFECT, 0.1))
    open(path, "w").write(text.upper())
    if not (found and DEFECT == "hides-units"):
        say("checkpoint", id=job["id"], name=name, path=name)


def run(job):
    id, scratch = job["id"], job["scratch"]
    if DEFECT == "dies-at-run":
        print("no device", file=sys.stderr)
        os._exit(4)
    if DEFECT == "refuses":
        return say("error", id=id, **{"class": "config", "message": "no such voice"})
    if DEFECT == "breaks":
        return say("error", id=id, **{"class": "bug", "message": "hoarse"})
    if DEFECT == "noise":
        write(b"Loading weights: 100%\n")
    if DEFECT == "not-utf8":
        write(b'{"type":"log","id":1,"message":"\xff"}\n')
    if DEFECT == "huge-line":
        write(b"x" * (1 << 20) + b"\n")
    if DEFECT == "key-in-job":
        say("keyed", id=id)
    source, more = job["params"]["text"], job["inputs"]["more"]["path"]
    text = open(source).read() + "".join(open(os.path.join(more, name)).read() for name in sorted(os.listdir(more)))
    if DEFECT == "writes-inputs":
        os.chmod(source, 0o644)
        open(source, "a").write("more")
    if DEFECT == "writes-folders":
        open(os.path.join(more, "new"), "w").write("more")
    total = job["params"]["parts"]
    for number in range(total):
        if STOP.is_set() and DEFECT != "ignores-cancel":
            if DEFECT == "deaf-after-cancel":
                os._exit(0)
            return say("cancelled", id=id)
        part(job, number, text[number * len(text) // total:(number + 1) * len(text) // total])
        say("progress", id=id, done=total + 1 if DEFECT == "progress-overrun" else number + 1, total=total)
    made = "".join(open(os.path.join(scratch, f"part-{number}")).read() for number in range(total))
    made += {"not-exact": str(time.time_ns()), "home-in-output": os.environ["HOME"]}.get(DEFECT, "")
    made = json.dumps({"texts": [{"blob": "0123456789abcdef" * 4}]}) if DEFECT == "stray-digest" else made
    open(os.path.join(scratch, "loud.txt"), "w").write(made)
    if DEFECT == "changes-unit":
        time.sleep(0.5)
        open(os.path.join(scratch, "part-0"), "w").write("gone")
    if DEFECT == "writes-home":
        open("result.txt", "w").write(made)
    if DEFECT == "writes-cache":
        os.makedirs(".cache", exist_ok=True)
        open(".cache/shout", "w").write(made)
    if DEFECT == "outside":
        open(os.path.join(scratch, "../loud.txt"), "w").write(made)
    numbers = {"spelled-out": "infinite", "bare-nan": float("nan")}
    say("metric", id=id, name="letters", value=numbers.get(DEFECT, len(made)))
    path = {"outside": "../loud.txt", "absolute": os.path.join(scratch, "loud.txt"), "not-there": "quiet.txt"}
    if DEFECT != "missing-output":
        name = "out" if DEFECT == "stray-digest" else "loud"
        say("artifact", id=id, name=name, path=path.get(DEFECT, "loud.txt"))
    if DEFECT == "undeclared-output":
        say("artifact", id=id, name="quiet", path="loud.txt")
    if DEFECT == "output-twice":
        say("artifact", id=id, name="loud", path="loud.txt")
    say("done", id=id + 1 if DEFECT == "wrong-id" else id)
    if DEFECT == "two-ends":
        say("done", id=id)


def work():
    global working
    for done in range(1 << 30):
        job = JOBS.get()
        if DEFECT == "dies-quietly":
            if done:
                os._exit(3)
            sys.stderr.write("warming up\n")
            sys.stderr.flush()
        if DEFECT == "one-job" and done:
            sys.stderr.write("out of memory\n")
            os._exit(137)
        working = 1
        run(job)
        working = 0


def key(message):
    told = {"sources": {"self": "broken.py" if DEFECT == "relative-source" else os.path.abspath(__file__)}}
    if DEFECT == "lost-source":
        told["sources"]["lost"] = "/no/such/file"
    if DEFECT in ("random-key", "key-of-process"):
        told["numerics"] = str(time.time_ns() if DEFECT == "random-key" else os.getpid())
    if DEFECT == "problems":
        told["problems"] = [{"path": "text", "message": "too quiet"}]
    say("keyed", id=message["id"], **told)


def answer(message):
    kind, id = message["type"], message.get("id")
    if DEFECT == "strict" and "x-conformance" in message:
        raise TypeError("unexpected field")
    if kind == "hello":
        if DEFECT == "no-hello":
            return
        while DEFECT == "floods":
            write(b"Loading weights: 100%\n")
        if DEFECT == "beats-first":
            say("heartbeat")
        say("hello", protocol=7 if DEFECT == "wrong-version" else 1, worker="shout 1.0", capabilities=CAPABILITIES)
        if DEFECT == "orphan":
            subprocess.Popen(["sleep", "60"], start_new_session=True, stdout=subprocess.DEVNULL)
        if "heartbeat" in CAPABILITIES and DEFECT != "no-heartbeat":
            threading.Thread(target=beat, args=[message["heartbeat_ms"] / 1000], daemon=True).start()
    elif kind == "describe":
        if DEFECT == "dies-at-describe":
            sys.exit("no such library")
        say("description", id=id, stages=[] if DEFECT == "no-stages" else [STAGE])
    elif kind == "cancel":
        STOP.set()
    elif kind not in ("key", "run"):
        if DEFECT != "ignores-unknown-type":
            say("error", id=id, **{"class": "bug", "message": f"`{kind}` is nothing that this plugin knows"})
    elif message.get("stage") != "shout" and DEFECT != "any-stage":
        say("error", id=id, **{"class": "config", "message": "there is no such stage type"})
    elif kind == "key":
        key(message)
    elif "text" in message["params"]:
        STOP.clear()
        JOBS.put(message)
    else:
        say("done", id=id)


if DEFECT == "environment":
    os.environ["SHOUT_HOME"]
if DEFECT == "peeks":
    open(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".hidden")).close()
threading.Thread(target=work, daemon=True).start()
for line in sys.stdin:
    answer(json.loads(line))
if DEFECT == "last-words":
    write(b"bye\n")
if DEFECT == "ignores-end":
    time.sleep(60)
os._exit(0)
