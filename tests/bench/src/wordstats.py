"""The stage of pipelines/plugins/wordstats, in Python."""
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import qpipe_stage as qpipe


@dataclass
class Params:
    text: Path = qpipe.param("The text, in UTF-8.")
    top: int = qpipe.param("How many words the table has.", default=10, min=1)


@qpipe.stage("wordstats", outputs={"table": "WORD COUNT, the most frequent first."})
def wordstats(job: qpipe.Job, params: Params):
    """Counts the words of a text."""
    words = re.findall(r"[^\W\d_]+", params.text.read_text(encoding="utf-8"))
    counts = Counter(word.lower() for word in words)
    rows = sorted(counts.items(), key=lambda row: (-row[1], row[0]))[: params.top]
    job.output("table").write_text("".join(f"{word}\t{count}\n" for word, count in rows), encoding="utf-8")
    job.metric("distinct", len(counts), unit="words", n=len(words), headline=True)
    job.metric("type-token-ratio", len(counts) / max(len(words), 1), n=len(words))


qpipe.main()
