"""Plugins on the Python kit that read what other stages tell."""

from dataclasses import dataclass

import qpipe_stage as qpipe


@dataclass
class Text:
    text: str = qpipe.param("the text")


@qpipe.stage("count", outputs={"text": "the text"})
def count(job: qpipe.Job, params: Text):
    """Counts the words of a text."""
    job.output("text").write_text(params.text)
    words = len(params.text.split())
    job.metric("words", words if words else float("-inf"), unit="words", better="higher", n=1, low=0, high=9, headline=True)


@dataclass
class Which:
    metric: str = qpipe.param("the metric's name")


@qpipe.stage("ratio", output="metrics", inputs={"of": qpipe.port("metrics", "what is divided"),
                                                "to": qpipe.port("metrics", "what it is divided by")})
def ratio(job: qpipe.Job, params: Which):
    """Divides a number that one stage told by that of another."""
    of, to = (job.inputs[name].metrics() for name in ("of", "to"))
    job.log(f"{of.stage} {of[params.metric].unit}")
    job.metric(params.metric, of[params.metric].value / to[params.metric].value, headline=True)


qpipe.main()
