"""The engine's side of a conversation, for the kit's tests."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
# after this long a test has failed
PATIENCE = 30.0


class Engine:
    """A plugin, started and greeted: `with Engine() as engine`. `files`: messages go through files. `laid`: files beside
    it, by name; `start`: how it is started, in its folder."""

    def __init__(self, minor=1, files=False, env=None, greet=True, laid=None, start=("sample.py",)):
        self.folder = Path(os.path.realpath(tempfile.mkdtemp()))
        for file in ("tests/sample.py", "tests/neighbour.py", "qpipe_stage.py"):
            shutil.copy(HERE.parent / file, self.folder)
        for name, text in (laid or {}).items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(text, Path):
                (self.folder / name).symlink_to(self.folder / text)
            else:
                (self.folder / name).write_text(text)
        self.files, self.asked, self.jobs = files, 0, 0
        env = {**os.environ, **(env or {})}
        if files:
            self.talk = self.folder / "talk"
            self.talk.mkdir()
            (self.talk / "requests").touch()
            (self.talk / "replies").touch()
            env["QSTAGE_DIR"] = str(self.talk)
        self.log = open(self.folder / "log", "w+b")
        self.process = subprocess.Popen([sys.executable, *start], cwd=self.folder, stdin=subprocess.PIPE,
                                        stdout=self.log if files else subprocess.PIPE, stderr=self.log, env=env)
        self.replies = open(self.talk / "replies", "rb") if files else self.process.stdout
        self.watch = threading.Timer(PATIENCE, self.process.kill)
        self.watch.start()
        if greet:
            told = {} if minor == 0 else {"minor": minor}
            self.say("hello", protocol={"min": 1, "max": 1}, engine="test", heartbeat_ms=20, **told)
            self.hello = self.hear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.watch.cancel()
        for stream in (self.process.stdin, self.replies, self.log):
            stream.close()
        shutil.rmtree(self.folder)

    def write(self, data):
        """Bytes as they are, whole messages or not."""
        if self.files:
            with open(self.talk / "requests", "ab") as file:
                file.write(data)
        else:
            self.process.stdin.write(data)
            self.process.stdin.flush()

    def say(self, kind, **fields):
        self.write(json.dumps({"type": kind, **fields}).encode() + b"\n")

    def hear(self):
        """The next message; a heartbeat only if nothing else is asked for."""
        line = self.replies.readline()
        while self.files and not line.endswith(b"\n"):
            if self.process.poll() is not None:
                raise AssertionError(f"the plugin ended: {self.said()}")
            time.sleep(0.002)
            line += self.replies.readline()
        if not line:
            raise AssertionError(f"the plugin hung up: {self.said()}")
        return json.loads(line)

    def ask(self, kind, **fields):
        """A question, and its answer."""
        self.asked += 1
        self.say(kind, id=self.asked, **fields)
        answer = self.hear()
        assert answer["id"] == self.asked, answer
        return answer

    def begin(self, stage, params=None, **fields):
        """Begins a job; gives its scratch folder."""
        self.asked, self.jobs = self.asked + 1, self.jobs + 1
        scratch = self.folder / f"scratch-{self.jobs}"
        scratch.mkdir()
        self.say("run", id=self.asked, stage=stage, params=params or {}, inputs={}, sources={}, scratch=str(scratch),
                 device="auto", **fields)
        return scratch

    def run(self, stage, params=None, **fields):
        """A whole job: its scratch folder and its messages, to its end or the plugin's."""
        scratch, messages = self.begin(stage, params, **fields), []
        while not messages or messages[-1]["type"] not in ("done", "error", "cancelled"):
            messages.append(self.hear())
            assert messages[-1]["id"] == self.asked, messages[-1]
        return scratch, messages

    def said(self):
        """The plugin's log."""
        self.log.flush()
        return (self.folder / "log").read_text()


def of(kind, messages):
    """The messages of a type, without type and id."""
    told = [dict(message) for message in messages if message["type"] == kind]
    return [{key: value for key, value in one.items() if key not in ("type", "id")} for one in told]
