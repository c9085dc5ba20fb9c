"""Plugins on the Python kit: books of pages, which are documents with blobs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional

import binding
import qpipe_stage as qpipe


@dataclass
class Style:
    indent: int = qpipe.param("spaces", default=0, min=0, max=8)


@dataclass
class Book:
    pages: list[str] = qpipe.param("the pages")
    title: Optional[str] = qpipe.param("what it is called", default=None)
    how: Literal["well", "lost", "twice", "config", "defect", "nan"] = qpipe.param("what happens", default="well")
    style: Style = qpipe.param("how it looks", default=Style)


def wrong(params):
    return [("title", "a title is not empty")] if params.title == "" else []


@qpipe.stage("bind", output="book", inputs={"after": qpipe.port("book", "what it continues", required=False)},
             check=wrong)
def bind(job: qpipe.Job, params: Book):
    """Binds pages, after those of another book."""
    if params.how == "config":
        raise qpipe.ConfigError("no such paper")
    if params.how == "defect":
        raise KeyError("glue")
    pages = list(job.inputs["after"].json()["pages"]) if "after" in job.inputs else []
    for digest in pages:
        job.log(job.inputs["after"].blob(digest).read_text())
    for number, text in enumerate(params.pages):
        path, blob = job.blob(f"page-{number}")
        if params.how != "lost":
            path.write_text(" " * params.style.indent + binding.bound(text))
        pages.append(blob)
        job.progress(number + 1, len(params.pages), "pages")
    print("this is no message")
    told = {"title": params.title, "pages": pages}
    if params.how == "twice":
        told["cover"] = "blob:cover"
    job.output("out").write_text(json.dumps(told))
    job.metric("pages", float("nan") if params.how == "nan" else len(pages), unit="pages", better="higher", headline=True)


@dataclass
class Reading:
    aloud: bool = qpipe.param("in capitals", default=False)


@qpipe.stage("read", inputs={"book": qpipe.port("book", "what to read")}, outputs={"text": "all pages"})
def read(job: qpipe.Job, params: Reading):
    """Reads a book."""
    book = job.inputs["book"]
    text = "".join(book.blob(digest).read_text() for digest in book.json()["pages"])
    job.output("text", "text.txt").write_text(text.upper() if params.aloud else text)


qpipe.main()
