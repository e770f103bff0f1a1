"""`report.html` and `curves.png`: a run as a person reads it, made from its folder alone.

What a model wrote is hostile until escaped. Every text goes through `html.escape`, the page may load and run nothing
(Content-Security-Policy), and images are decoded and encoded again before they are put in.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ovt_ray.core.errors import DataError
from ovt_ray.core.files import write_atomically
from ovt_ray.core.images import image_fault
from ovt_ray.core.types import ImageSource, Problem
from ovt_ray.report.curves import STAGE_COLOURS, draw_curves, stage_label
from ovt_ray.report.samples import SampleRecord, read_samples
from ovt_ray.report.traces import trace_sections
from ovt_ray.run.metrics import read_metrics
from ovt_ray.run.results import StageResult, clock_time, read_results, stage_key

MAX_SHOWN_PIXELS = 640
"""Longer side of an image in the page."""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { --ink: #22262e; --soft: #596171; --line: #e3e7ec; --paper: #f5f6f8 }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif }
main { max-width: 1120px; margin: 0 auto; padding: 36px 24px 64px }
h1 { font-size: 28px; margin: 0 } h2 { font-size: 19px; margin: 40px 0 12px }
.lead { color: var(--soft); font-size: 17px; margin: 4px 0 24px } .lead b { color: var(--ink) }
.panel { background: #fff; border: 1px solid var(--line); border-radius: 10px; overflow: hidden }
.curves { display: block; width: 100%; padding: 12px }
table { width: 100%; border-collapse: collapse }
th { text-align: right; font-size: 13px; font-weight: 600; color: var(--soft) } th:first-child, th:nth-child(2) { text-align: left }
td, th { padding: 9px 16px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
td { font-variant-numeric: tabular-nums }
tr:last-child td { border-bottom: 0 } td:first-child { text-align: left; font-weight: 600 } td.wide { width: 45% }
.track { position: relative; height: 14px; background: #eef0f3; border-radius: 7px }
.fill { position: absolute; inset: 0 auto 0 0; border-radius: 7px }
.interval { position: absolute; top: 6px; height: 2px; background: var(--ink); opacity: .75 }
.card { display: grid; grid-template-columns: 260px 1fr; gap: 22px; padding: 18px; margin-bottom: 16px }
.card > * { min-width: 0 }
.card img { display: block; width: 100%; margin-bottom: 8px; border: 1px solid var(--line); border-radius: 6px; image-rendering: auto }
.question { font-size: 16px; font-weight: 600; margin: 0 0 2px; white-space: pre-wrap; overflow-wrap: anywhere }
.gold { color: var(--soft); margin: 0 0 12px; overflow-wrap: anywhere } .gold b { color: var(--ink) }
.answer { display: grid; grid-template-columns: 76px 1fr auto; gap: 12px; padding: 8px 0; align-items: start }
.answer { border-top: 1px solid var(--line) }
.answer > * { min-width: 0 } .answer .stage { font-weight: 600; font-size: 13px; padding-top: 2px }
pre { margin: 0; font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap; overflow-wrap: anywhere }
.counts th:nth-child(2) { text-align: right } .scroll { overflow-x: auto; margin-bottom: 16px }
.answer pre, .dropped { max-height: 16em; overflow: auto }
.verdict { font-size: 12px; font-weight: 600; padding: 2px 9px; border-radius: 10px; white-space: nowrap }
.correct { background: #dcf3e3; color: #14713a } .wrong { background: #fde3e0; color: #a92a1c }
.unparseable { background: #fff0d2; color: #865600 } .unscorable { background: #e6e9ee; color: #4a5261 }
details { padding: 12px 16px } summary { cursor: pointer; font-weight: 600 } .missing { color: var(--soft); font-style: italic }
@media (max-width: 760px) {
  .card, .answer { grid-template-columns: 1fr } .panel { overflow-x: auto } td, th { padding: 8px 6px } td.wide { width: auto }
}
"""


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer to a problem and the label of the stage that gave it."""

    stage: str
    sample: SampleRecord


def write_report(run_dir: Path) -> Path:
    """Write `curves.png` and the self-contained `report.html` of a run, finished or not, and return the page's path."""
    if not run_dir.is_dir():
        raise DataError(f"{run_dir}: no such run folder; give the folder that a run wrote, such as runs/NAME")
    results = read_results(run_dir)
    curves = draw_curves(run_dir.resolve().name, results, read_metrics(run_dir))
    write_atomically(run_dir / "curves.png", curves)
    page = run_dir / "report.html"
    write_atomically(page, _page(run_dir, results, curves))
    return page


def _page(run_dir: Path, results: Sequence[StageResult], curves: bytes) -> str:
    name = escape(run_dir.resolve().name)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{name}</title><style>{STYLE}</style></head>
<body><main>
<h1>{name}</h1>
<p class="lead">{_lead(results)}</p>
<div class="panel"><img class="curves" alt="Accuracy of the stages; curves of reward, length and loss" src="{_png_url(curves)}"></div>
<h2>Stages</h2>
<div class="panel"><table><tr><th>stage</th><th>held-out accuracy</th><th></th><th>95 % interval</th><th>tokens</th><th>time</th></tr>
{"".join(_stage_row(result) for result in results)}</table></div>
{"".join(trace_sections(run_dir, _image))}
{"".join(_samples(run_dir, results))}
{_config(run_dir)}
</main></body></html>
"""


def _lead(results: Sequence[StageResult]) -> str:
    if not results:
        return "No stage is evaluated yet."
    first, last = results[0], results[-1]
    return (
        f"From <b>{first.accuracy:.1%}</b> ({escape(stage_label(first))}) to <b>{last.accuracy:.1%}</b> ({escape(stage_label(last))}) "
        f"on {last.num_problems:,} held-out problems."
    )


def _stage_row(result: StageResult) -> str:
    colour = STAGE_COLOURS.get(result.stage, "#596171")
    interval = f'<i class="interval" style="left:{result.ci_low:.2%};width:{result.ci_high - result.ci_low:.2%}"></i>'
    bar = f'<div class="track"><i class="fill" style="width:{result.accuracy:.2%};background:{colour}"></i>{interval}</div>'
    return (
        f'<tr><td>{escape(stage_label(result))}</td><td class="wide">{bar}</td><td><b>{result.accuracy:.1%}</b></td>'
        f"<td>{result.ci_low:.1%} – {result.ci_high:.1%}</td>"
        f"<td>{result.response_tokens:.1f}</td><td>{clock_time(result.seconds)}</td></tr>\n"
    )


def _samples(run_dir: Path, results: Sequence[StageResult]) -> Iterator[str]:
    """Yield a card per problem that shows what each stage answered, so that a reader sees the model change."""
    answers: dict[str, list[_Answer]] = {}
    for result in results:
        for sample in read_samples(run_dir, stage_key(result.iteration, result.stage)):
            answers.setdefault(sample.problem.id, []).append(_Answer(stage_label(result), sample))
    if answers:
        yield "<h2>What the models answered</h2>"
    for given in answers.values():
        problem = given[0].sample.problem
        images = "".join(_image(source) for source in problem.images)
        responses = "".join(_answer(answer) for answer in given)
        yield f'<div class="panel card"><div>{images}</div><div>{_question(problem)}{responses}</div></div>\n'


def _question(problem: Problem) -> str:
    choices = f"choices: {escape(' | '.join(problem.choices))} · " if problem.choices else ""
    return f'<p class="question">{escape(problem.question)}</p><p class="gold">{choices}gold answer: <b>{escape(problem.answer)}</b></p>'


def _answer(answer: _Answer) -> str:
    sample = answer.sample
    read = "no answer read" if sample.extracted is None else f"read as {sample.extracted}"
    outcome = sample.outcome.value
    why = f"{read}; reward {sample.reward:g}" + (f"; {sample.reason}" if sample.reason else "")
    verdict = f'<span class="verdict {outcome}" title="{escape(why)}">{outcome}</span>'
    return f'<div class="answer"><span class="stage">{escape(answer.stage)}</span><pre>{escape(sample.response)}</pre>{verdict}</div>'


def _image(source: ImageSource) -> str:
    """Return an image element with the image, decoded and encoded again, in it."""
    from PIL import Image

    if fault := image_fault(source):
        return f'<p class="missing">{escape(fault)}</p>'
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        shown = image.convert("RGB")
    shown.thumbnail((MAX_SHOWN_PIXELS, MAX_SHOWN_PIXELS))
    encoded = io.BytesIO()
    shown.save(encoded, "PNG", optimize=True)
    return f'<img alt="image of the problem" src="{_png_url(encoded.getvalue())}">'


def _config(run_dir: Path) -> str:
    path = run_dir / "config.json"
    if not path.exists():
        return ""
    details = f"<details><summary>config.json</summary><pre>{escape(path.read_text())}</pre></details>"
    return f'<h2>Configuration</h2><div class="panel">{details}</div>'


def _png_url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
