"""The kit's side of the protocol: `python3 -m unittest discover engine/sdk/python/tests`."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import qpipe_stage as qpipe
from fake_engine import Engine, HERE, of


class Described(unittest.TestCase):
    def test_what_the_plugin_is_and_can(self):
        with Engine() as engine:
            self.assertEqual((engine.hello["protocol"], engine.hello["minor"]), (1, 1))
            self.assertEqual(engine.hello["capabilities"], ["key", "cancel", "resume", "estimate"])
            told = engine.ask("describe")
            beside = {name: str(engine.folder / name) for name in ("neighbour.py", "qpipe_stage.py")}
            self.assertEqual(told["sources"], beside)
            stages = {stage["kind"]: stage for stage in told["stages"]}
            by = {kind: stage["keyed_by"] for kind, stage in stages.items()}
            self.assertEqual((by["words"], by["book"], by["page"]), ("params", "nothing", "machine"))
            self.assertEqual(stages["book"]["output"], {"kind": "book"})
            nodes = {node["name"]: node for node in stages["words"]["nodes"]}
            text = {"name": "text", "form": "value", "doc": "the text", "type": "file", "required": True}
            self.assertEqual(nodes["text"], text)
            self.assertEqual((nodes["top"]["type"], nodes["top"]["default"]), ({"int": {"min": 1}}, 10))
            self.assertEqual(nodes["ratio"]["type"], {"float": {"min": 0.0, "max": 1.0}})
            self.assertEqual((nodes["skip"]["type"], nodes["skip"]["default"]), ({"list": "text"}, []))
            self.assertNotIn("default", nodes["title"])
            self.assertEqual(nodes["scheme"]["type"], {"choice": ["nf4", "int8"]})
            self.assertEqual(nodes["block"]["applies"], {"param": "scheme", "values": ["nf4"]})
            self.assertEqual((nodes["device"]["in_key"], nodes["style"]["form"]), (False, "group"))
            self.assertEqual(nodes["style"]["doc"], "how it looks")
            self.assertEqual(nodes["style"]["props"][0]["type"], {"int": {"min": 0, "max": 8}})

    def test_memory_is_estimated(self):
        with Engine() as engine:
            estimated = {"type": "estimated", "id": 1, "host_bytes": 3000}
            self.assertEqual(engine.ask("estimate", stage="words", params={"text": "/a", "top": 3}), estimated)
            self.assertEqual(engine.ask("estimate", stage="page"), {"type": "estimated", "id": 2})

    def test_an_input_is_a_port(self):
        for wrong in ("files", ("files", "what")):
            with self.assertRaisesRegex(TypeError, r"input `src` is a port: `port\("):
                qpipe.stage("wrong", outputs={"out": "it"}, inputs={"src": wrong})

    def test_a_malformed_question_is_refused(self):
        with Engine() as engine:
            for kind in ("key", "estimate", "run"):
                for question in ({}, {"stage": None}, {"stage": []}, {"stage": "page", "params": []},
                                 {"stage": "page", "params": "a"}):
                    # what is empty is as good as absent
                    if kind != "run" and question.get("params") == []:
                        continue
                    answer = engine.ask(kind, **question)
                    self.assertEqual((answer["type"], answer["class"]), ("error", "bug"), question)
            self.assertIn("without `scratch`, `device`", engine.ask("run", stage="page")["message"])
            self.assertNotIn("Traceback", engine.said())
            self.assertEqual(engine.run("page")[1][-1]["type"], "done")

    def test_shipped_plugins_say_what_everything_is(self):
        for plugin in ("peer.py", "prune.py"):
            with Engine(start=[str(HERE.parents[3] / "pipelines/plugins" / plugin)]) as engine:
                for stage in engine.ask("describe")["stages"]:
                    nodes = stage["nodes"] + [prop for node in stage["nodes"] for prop in node.get("props", [])]
                    for told in [stage, *nodes, *stage["inputs"]]:
                        self.assertTrue(told["doc"].strip(), (plugin, told))

    def test_a_key_holds_rules_and_numerics(self):
        with Engine() as engine:
            keyed = engine.ask("key", stage="words", params={"text": "/a", "title": ""})
            self.assertEqual(keyed["problems"], [{"path": "title", "message": "a title is not empty"}])
            self.assertNotIn("sources", keyed)
            self.assertNotIn("problems", engine.ask("key", stage="words", params={"text": "/a"}))
            self.assertEqual(engine.ask("key", stage="page", params={})["numerics"], "this machine")
            error = engine.ask("key", stage="wrods", params={})
            self.assertEqual((error["type"], error["class"]), ("error", "bug"))

    def test_an_engine_of_minor_0_is_told_of_modules_with_the_key(self):
        with Engine(minor=0) as engine:
            sources = engine.ask("key", stage="book", params={"pages": []})["sources"]
            self.assertEqual(sources["module:neighbour"], str(engine.folder / "neighbour.py"))
            self.assertIn("module:qpipe_stage", sources)
            scratch, told = engine.run("book", {"pages": ["a"]})
            paths = {one["name"]: one["path"] for one in of("artifact", told)}
            self.assertEqual((scratch / paths["blob:page/a"]).read_text(), "A")

    def test_a_version_that_is_not_spoken(self):
        with Engine(greet=False) as engine:
            engine.say("hello", protocol={"min": 2, "max": 3}, engine="test", heartbeat_ms=2000)
            self.assertEqual(engine.hear()["class"], "bug")
            self.assertEqual(engine.process.wait(10), 1)


class Run(unittest.TestCase):
    def test_a_job_tells_what_it_did_whatever_prints(self):
        for files in (False, True):
            with self.subTest(files=files), Engine(files=files) as engine:
                text = engine.folder / "text"
                text.write_text("b a b c")
                params = {"text": str(text), "top": 2, "skip": ["c"], "style.indent": 1}
                scratch, told = engine.run("words", params)
                self.assertEqual([one["type"] for one in told], ["progress", "metric", "artifact", "done"])
                self.assertEqual(of("artifact", told), [{"name": "table", "path": "made/table.txt"}])
                self.assertEqual((scratch / "made/table.txt").read_text(), " b a")
                self.assertEqual(of("metric", told), [{
                    "name": "words", "value": 3, "unit": "words", "better": "higher", "n": 1, "stderr": "NaN",
                    "range": [0, "inf"], "trivial": 0.5, "headline": True,
                }])
                for line in ("no message", "no message either", "nor this"):
                    self.assertIn(line, engine.said())
                self.assertEqual(engine.run("words", params)[1][-1]["type"], "done", "and again")

    def test_errors_have_classes(self):
        with Engine() as engine:
            expected = {
                "config": ("config", "no"),
                "transient": ("transient", "later"),
                "host": ("oom-host", "MemoryError: MemoryError"),
                "device": ("oom-device", "OutOfMemoryError: full"),
                "defect": ("bug", "KeyError: 'glue'"),
                "kit": ("oom-device", "too much"),
                "absent": ("device", "no GPU"),
                "disk": ("store", f"OSError: [Errno {errno.ENOSPC}] full"),
                "undeclared": ("bug", "`fail` declares no output `other`, only out"),
            }
            for how, error in expected.items():
                last = engine.run("fail", {"how": how})[1][-1]
                self.assertEqual((last["class"], last["message"]), error, how)
            said = engine.said()
            self.assertIn("KeyError", said)
            self.assertNotIn("ConfigError", said, "no trace of what a stage says by itself")

    def test_an_output_that_is_not_there(self):
        with Engine() as engine:
            last = engine.run("lost")[1][-1]
            self.assertEqual((last["class"], last["message"]), ("bug", "unit `only` was not written to units/only"))

    def test_a_question_that_is_not_known_is_refused(self):
        with Engine() as engine:
            answer = engine.ask("sing")
            self.assertEqual((answer["type"], answer["class"]), ("error", "bug"))

    def test_a_job_is_cancelled_and_the_next_one_runs(self):
        for files in (False, True):
            with self.subTest(files=files), Engine(files=files) as engine:
                engine.begin("wait")
                self.assertEqual(engine.hear()["message"], "waiting")
                engine.say("cancel", id=engine.asked)
                self.assertEqual(engine.hear(), {"type": "cancelled", "id": engine.asked})
                self.assertEqual(engine.run("page")[1][-1]["type"], "done")

    def test_the_process_ends_with_its_engine(self):
        with Engine() as engine:
            engine.begin("wait")
            engine.hear()
            engine.process.stdin.close()
            self.assertEqual(engine.process.wait(10), 0)

    def test_heartbeats_while_a_job_runs(self):
        with Engine(env={"QPIPE_TEST_BEATS": "1"}) as engine:
            self.assertIn("heartbeat", engine.hello["capabilities"])
            engine.begin("wait")
            heard = [engine.hear()["type"] for _ in range(4)]
            self.assertGreaterEqual(heard.count("heartbeat"), 3)


class Units(unittest.TestCase):
    def test_a_unit_is_kept_and_an_output_names_it(self):
        with Engine() as engine:
            scratch, told = engine.run("book", {"pages": ["a", "b"]})
            kept = [{"name": f"page/{page}", "cached": False, "path": f"units/page/{page}"} for page in "ab"]
            self.assertEqual(of("checkpoint", told), kept)
            self.assertEqual((scratch / "units/page/b").read_text(), "B")
            self.assertEqual(of("artifact", told), [
                {"name": "blob:page/a", "unit": "page/a"}, {"name": "blob:page/b", "unit": "page/b"},
                {"name": "blob:cover", "path": "blobs/cover"}, {"name": "out", "path": "out"},
            ])
            self.assertEqual(json.loads((scratch / "out").read_text())["pages"], ["blob:page/a", "blob:page/b"])
            self.assertEqual(of("artifact", engine.run("page")[1]), [{"name": "page", "unit": "only"}])

    def test_what_an_earlier_try_kept_is_not_made_again(self):
        with Engine() as engine:
            scratch = engine.begin("book", {"pages": ["a", "b", "c"], "stop-after": 2})
            kept = [engine.hear() for _ in range(6)]
            self.assertEqual(engine.process.wait(10), 9)
            units = {}
            for one in of("checkpoint", kept):
                units[one["name"]] = {"digest": "0" * 64, "path": str(scratch / one["path"])}
            self.assertEqual(list(units), ["page/a", "page/b"])
            with Engine() as second:
                _, told = second.run("book", {"pages": ["a", "b", "c"]}, units=units)
                self.assertEqual(of("log", told), [{"message": "making c"}])
                self.assertEqual(of("checkpoint", told), [
                    {"name": "page/a", "cached": True}, {"name": "page/b", "cached": True},
                    {"name": "page/c", "cached": False, "path": "units/page/c"},
                ])
                names = [one["name"] for one in of("artifact", told)]
                self.assertEqual(names, ["blob:page/a", "blob:page/b", "blob:page/c", "blob:cover", "out"])


class FileTransport(unittest.TestCase):
    def test_half_a_line_is_no_message(self):
        with Engine(files=True) as engine:
            engine.write(b'{"type": "describe", "id": 1, "x": "\xc3')
            time.sleep(0.1)
            self.assertEqual(engine.replies.read(), b"")
            engine.write(b'\xa4"}\n{"type": "heartbeat"}\n')
            self.assertEqual(engine.hear()["type"], "description")

    def test_it_ends_at_bye(self):
        with Engine(files=True) as engine:
            engine.begin("wait")
            engine.hear()
            engine.say("bye")
            self.assertEqual(engine.process.wait(10), 0)

    def test_it_ends_when_its_folder_is_gone(self):
        with Engine(files=True) as engine:
            os.remove(engine.talk / "requests")
            self.assertEqual(engine.process.wait(10), 0)

    def test_it_ends_at_what_is_no_message(self):
        for line in (b"no message\n", b"[]\n", b"{}\n", b"\xff\n"):
            for files in (False, True):
                with self.subTest(line=line, files=files), Engine(files=files) as engine:
                    engine.begin("wait")
                    engine.hear()
                    engine.write(line)
                    self.assertEqual(engine.process.wait(10), 1)
                    self.assertIn("is no message", engine.said())

    def test_a_file_that_cannot_be_read_is_silence(self):
        with tempfile.TemporaryDirectory() as folder:
            silence, qpipe.SILENCE = qpipe.SILENCE, 0.2
            stderr, sys.stderr = sys.stderr, io.StringIO()
            try:
                self.assertEqual(list(qpipe._appended(Path(folder))), [])
                self.assertIn("directory", sys.stderr.getvalue())
            finally:
                qpipe.SILENCE, sys.stderr = silence, stderr

    def test_a_silent_engine_is_gone_and_one_that_was_only_unheard_is_not(self):
        lines = []
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "requests")
            path.write_text("one\n")
            silence, qpipe.SILENCE = qpipe.SILENCE, 0.2
            stderr, sys.stderr = sys.stderr, open(os.devnull, "w")
            try:
                for line in qpipe._appended(path):
                    lines.append(line)
                    if line == "one":
                        # longer than the silence, as where Python's lock was held
                        time.sleep(0.4)
                        path.write_text("one\ntwo\n")
            finally:
                sys.stderr.close()
                qpipe.SILENCE, sys.stderr = silence, stderr
        self.assertEqual(lines, ["one", "two"])

    def test_a_kill_leaves_whole_messages(self):
        with Engine(files=True) as engine:
            engine.begin("wait")
            self.assertEqual(engine.hear()["message"], "waiting")
            engine.process.send_signal(signal.SIGKILL)
            engine.process.wait(10)
            text = (engine.talk / "replies").read_bytes()
            self.assertTrue(text.endswith(b"\n"))
            self.assertEqual([json.loads(line)["type"] for line in text.splitlines()], ["hello", "log"])


class Metrics(unittest.TestCase):
    DOCUMENT = {"format": "qpipe.metrics/1", "stage": "evaluate", "metrics": [
        {"name": "f1", "value": 1, "unit": "", "better": "higher", "n": 7, "stderr": "NaN", "range": [0, "inf"],
         "trivial": 0.5, "paired": {"port": "against", "difference": "-inf", "low": 0.5, "high": 1}, "headline": True},
        {"name": "kl", "value": "inf", "unit": "nat", "better": "lower", "n": None, "stderr": None, "range": None,
         "trivial": None, "paired": None, "headline": False}]}

    def given(self, folder):
        path = Path(folder, "numbers.json")
        path.write_text(json.dumps(self.DOCUMENT))
        return qpipe.Input("metrics", "", path)

    def test_what_another_stage_told_is_numbers_by_name(self):
        with tempfile.TemporaryDirectory() as folder:
            told = self.given(folder).metrics()
        self.assertEqual((told.stage, list(told)), ("evaluate", ["f1", "kl"]))
        f1 = told["f1"]
        self.assertEqual((f1.value, f1.better, f1.n, f1.low, f1.high, f1.trivial, f1.headline),
                         (1.0, "higher", 7, 0.0, float("inf"), 0.5, True))
        self.assertNotEqual(f1.stderr, f1.stderr)
        self.assertEqual(f1.paired, {"port": "against", "difference": float("-inf"), "low": 0.5, "high": 1})
        self.assertEqual(told["kl"], qpipe.Metric("kl", float("inf"), "nat", "lower"))
        with self.assertRaisesRegex(qpipe.ConfigError, "`evaluate` tells no metric `f2`, only `f1`, `kl`"):
            told["f2"]

    def test_a_stage_that_makes_metrics_has_no_output(self):
        with Engine() as engine:
            stages = {stage["kind"]: stage for stage in engine.ask("describe")["stages"]}
            self.assertEqual(stages["told"]["output"], {"kind": "metrics"})
            given = self.given(engine.folder)
            inputs = {"of": {"kind": "metrics", "digest": "", "path": str(given.path), "refs": []}}
            engine.begin("told")
            self.assertEqual(engine.hear()["type"], "error", "nothing is connected")
            engine.say("run", id=9, stage="told", params={}, inputs=inputs, sources={}, scratch=str(engine.folder),
                       device="auto")
            heard = [engine.hear() for _ in range(4)]
            self.assertEqual([one["type"] for one in heard], ["log", "log", "metric", "error"])
            self.assertEqual((heard[2]["name"], heard[2]["value"]), ("evaluate", 1.0))
            self.assertIn("`told` makes what it tells, and no output `out`", heard[3]["message"])


class Trial(unittest.TestCase):
    def test_a_stage_is_tried_without_an_engine(self):
        with tempfile.TemporaryDirectory() as folder:
            text, out = Path(folder, "text"), Path(folder, "made")
            text.write_text("x y z")
            path = os.pathsep.join([str(HERE.parent), str(HERE)])
            env = {**os.environ, "PYTHONPATH": path}

            def tried(*words):
                command = [sys.executable, str(HERE / "sample.py"), "--try", *words, "--out", str(out)]
                return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)

            told = tried("words", f"text={text}", "top=2", "skip=x,q")
            self.assertEqual((told.returncode, (out / "made/table.txt").read_text()), (0, "y z"))
            self.assertIn(b'artifact {"name": "table", "path": "made/table.txt"}', told.stdout)
            self.assertEqual(tried("book", "pages=a,b").returncode, 0)
            self.assertEqual((out / "units/page/b").read_text(), "B")
            self.assertIn(b"no parameter `txt`", tried("words", "txt=a").stderr)
            self.assertIn(b"--try STAGE", tried("wrods").stderr)
            usage = subprocess.run([sys.executable, str(HERE / "sample.py"), "--help"], stdout=subprocess.PIPE, env=env)
            self.assertEqual(usage.returncode, 0)
            for line in ("words: Lists the words of files.", "  text=  the text", "  top= [10]  how many",
                         "  style.indent= [0]  spaces", "  --input also= [none]  files: more"):
                self.assertIn(line, usage.stdout.decode().splitlines())


class Safetensors(unittest.TestCase):
    def test_tensors_are_read_as_they_were_written(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "a.safetensors")
            tensors = {
                "scalar": qpipe.Tensor("F32", (), bytes(4)), "empty": qpipe.Tensor("I8", (0, 3), b""),
                "half": qpipe.Tensor("BF16", (2, 2), bytes(range(8))),
            }
            qpipe.write_safetensors(path, tensors, metadata={"format": "pt"})
            self.assertEqual(qpipe.read_safetensors(path), tensors)
            self.assertEqual(qpipe.read_safetensors(path, ["half"]), {"half": tensors["half"]})
            with self.assertRaisesRegex(qpipe.ConfigError, "no tensor `whole`"):
                qpipe.read_safetensors(path, ["whole"])
            head = int.from_bytes(path.read_bytes()[:8], "little")
            self.assertEqual(head % 8, 0)
            self.assertEqual(json.loads(path.read_bytes()[8:8 + head])["__metadata__"], {"format": "pt"})

    def test_a_file_that_is_cut_short_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "a.safetensors")
            qpipe.write_safetensors(path, {"a": qpipe.Tensor("U8", (8,), bytes(8))})
            path.write_bytes(path.read_bytes()[:-1])
            with self.assertRaisesRegex(qpipe.ConfigError, "does not have the bytes of its shape"):
                qpipe.read_safetensors(path)

    def test_numpy_arrays(self):
        try:
            import numpy
        except ImportError:
            self.skipTest("needs numpy")
        values = numpy.array([1.0, -2.5, 3.1415927, numpy.inf], "<f4")
        self.assertEqual(qpipe.Tensor.of(values).numpy().tolist(), values.tolist())
        self.assertEqual(qpipe.Tensor.of(values, "BF16").numpy().tolist(), [1.0, -2.5, 3.140625, numpy.inf])


if __name__ == "__main__":
    unittest.main()
