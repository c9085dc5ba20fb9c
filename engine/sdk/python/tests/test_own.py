"""Which files the kit tells as the program's own."""

import sys
import unittest
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from fake_engine import Engine

PROGRAM = """
import qpipe_stage as qpipe

@qpipe.stage("early", outputs={"out": "a number"})
def early(job):
    job.output("out").write_text("1")

@qpipe.stage("late", outputs={"out": "a number"})
def late(job):
    IMPORT
    job.output("out").write_text(str(number))

if __name__ == "__main__":
    qpipe.main()
"""
LAZY = PROGRAM.replace("IMPORT", "from part import number")
KIT = ["neighbour.py", "qpipe_stage.py", "sample.py"]


def told(engine):
    """The program's own files, without those that every folder of these tests has."""
    return [name for name in engine.ask("describe")["sources"] if name not in KIT]


class Own(unittest.TestCase):
    def test_a_module_that_a_job_imports(self):
        laid = {"tally.py": LAZY, "part.py": "number = 2", "pack/__init__.py": "", "pack/deep/__init__.py": "",
                "pack/deep/part.py": "", "test_tally.py": "", "plain/part.py": "", ".venv/part.py": "",
                "venv/lib/python3/site-packages/part.py": "", "data.json": ""}
        with Engine(laid=laid, start=["tally.py"]) as engine:
            own = ["pack/__init__.py", "pack/deep/__init__.py", "pack/deep/part.py", "part.py"]
            self.assertEqual(sorted(told(engine)), own)
            self.assertEqual(engine.run("late")[1][-1]["type"], "done")
            self.assertEqual(sorted(told(engine)), own, "the same again")

    def test_a_program_that_is_a_link(self):
        laid = {"src/tally.py": LAZY, "src/part.py": "number = 2", "src/kit.txt": "",
                "plugins/qpipe-stage-tally": Path("src/tally.py"), "src/qpipe_stage.py": Path("qpipe_stage.py")}
        with Engine(laid=laid, start=["plugins/qpipe-stage-tally"]) as engine:
            sources = engine.ask("describe")["sources"]
            expected = {name: str(engine.folder / "src" / name) for name in ("part.py", "qpipe_stage.py")}
            self.assertEqual(sources, expected)
            self.assertEqual(engine.run("late")[1][-1]["type"], "done")

    def test_a_package_that_is_started_as_a_module(self):
        laid = {"pkg/__init__.py": "", "pkg/__main__.py": LAZY.replace("from part", "from .part"),
                "pkg/part.py": "number = 2", "other/__init__.py": ""}
        with Engine(laid=laid, start=["-m", "pkg"]) as engine:
            self.assertEqual(sorted(told(engine)), ["pkg/__init__.py", "pkg/__main__.py", "pkg/part.py"])
            self.assertEqual(engine.run("late")[1][-1]["type"], "done")

    def test_a_package_that_a_launcher_starts(self):
        for there in ("src", "lib/python3/site-packages"):
            launcher = f"import sys\nsys.path[:0] = ['{there}', '.']\nfrom pkg.stages import qpipe\nqpipe.main()\n"
            laid = {"bin/tally": launcher, f"{there}/pkg/__init__.py": "", f"{there}/other.py": "",
                    f"{there}/pkg/stages.py": LAZY.replace("from part", "from pkg.part"),
                    f"{there}/pkg/part.py": "number = 2"}
            with self.subTest(there=there), Engine(laid=laid, start=["bin/tally"]) as engine:
                self.assertEqual(sorted(told(engine)), ["pkg/__init__.py", "pkg/part.py", "pkg/stages.py"])
                self.assertEqual(engine.run("late")[1][-1]["type"], "done")

    def test_an_own_module_that_was_not_told_fails_the_job(self):
        late = "import sys; sys.path.append('more-parts'); from part import number"
        laid = {"tally.py": PROGRAM.replace("IMPORT", late), "more-parts/part.py": "number = 2"}
        with Engine(laid=laid, start=["tally.py"]) as engine:
            self.assertEqual(told(engine), [])
            self.assertEqual(engine.run("early")[1][-1]["type"], "done")
            for stage in ("late", "late", "early"):
                error = engine.run(stage)[1][-1]
                self.assertEqual((error["type"], error.get("class")), ("error", "config"), error)
                self.assertIn("module `part`", error["message"])
                self.assertIn("imported late", error["message"])

    def test_what_a_job_writes_and_imports_is_not_the_programs(self):
        late = "import sys; sys.path.append(str(job.scratch)); (job.scratch / 'made.py').write_text('number = 3'); " \
               "from made import number"
        with Engine(laid={"tally.py": PROGRAM.replace("IMPORT", late)}, start=["tally.py"]) as engine:
            self.assertEqual(engine.run("late")[1][-1]["type"], "done")
            self.assertEqual(engine.run("early")[1][-1]["type"], "done")

    def test_of_very_many_files_those_are_told_that_are_loaded(self):
        few = PROGRAM.replace("import qpipe_stage as qpipe", "import qpipe_stage as qpipe, part; qpipe.MOST_FILES = 3")
        laid = {"tally.py": few.replace("IMPORT", "from part import number"), "part.py": "number = 2", "more.py": ""}
        with Engine(laid=laid, start=["tally.py"]) as engine:
            self.assertEqual(sorted(engine.ask("describe")["sources"]), ["part.py", "qpipe_stage.py"])


if __name__ == "__main__":
    unittest.main()
