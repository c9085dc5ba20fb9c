"""A qpipe plugin: the stage type `NAME`."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import qpipe_stage as qpipe


@dataclass
class Params:
    text: Path = qpipe.param("The text.")
    top: int = qpipe.param("How many words.", default=10, min=1)


@qpipe.stage("NAME", outputs={"table": "WORD COUNT, most frequent first"})
def stage(job: qpipe.Job, params: Params):
    """Counts the words of a file."""
    counts = Counter(re.findall(r"[a-z]+", params.text.read_text(encoding="utf-8").lower()))
    rows = sorted(counts.items(), key=lambda row: (-row[1], row[0]))[: params.top]
    job.output("table").write_text("".join(f"{word}\t{count}\n" for word, count in rows), encoding="utf-8")
    job.metric("distinct", len(counts), unit="words", headline=True)


if __name__ == "__main__":
    qpipe.main()
