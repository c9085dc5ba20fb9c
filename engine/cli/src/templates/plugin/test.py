"""Tests of the plugin, without the engine: `python3 -m unittest`."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PLUGIN = Path(__file__).with_name("NAME.py")


class Test(unittest.TestCase):
    def test_words_are_counted(self):
        with tempfile.TemporaryDirectory() as folder:
            text = Path(folder, "text.txt")
            text.write_text("b a b c a b\n", encoding="utf-8")
            command = [sys.executable, PLUGIN, "--try", "NAME", f"text={text}", "top=2", "--out", Path(folder, "made")]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            self.assertEqual(Path(folder, "made", "table").read_text(encoding="utf-8"), "b\t3\na\t2\n")


if __name__ == "__main__":
    unittest.main()
