"""`report.html` and `curves.png`: the report of a run for people, made from its folder alone.

The text of a model is hostile until escaped. The templates escape every value. The page may load and run nothing
(Content-Security-Policy). Images are decoded and encoded again before they are put in.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from ovt_ray.core.errors import DataError
from ovt_ray.core.files import write_atomically
from ovt_ray.core.types import Problem
from ovt_ray.report.curves import STAGE_COLOURS, draw_curves, stage_label
from ovt_ray.report.pictures import Picture, picture, png_url
from ovt_ray.report.samples import SampleRecord, read_samples
from ovt_ray.report.traces import TraceSection, trace_sections
from ovt_ray.run.metrics import read_metrics
from ovt_ray.run.results import StageResult, clock_time, read_results, stage_key


@dataclass(frozen=True, slots=True)
class StageAnswer:
    """One answer to a problem."""

    stage: str
    """Label of the stage whose model answered."""
    response: str
    outcome: str
    why: str
    """Explanation of the verdict, shown when a reader points at it."""


@dataclass(frozen=True, slots=True)
class SampleCard:
    """A problem and the answer of each stage to it, so that a reader sees the model change."""

    problem: Problem
    pictures: tuple[Picture, ...]
    answers: tuple[StageAnswer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPage:
    """All values that `templates/report.html` shows."""

    name: str
    curves_url: str
    results: Sequence[StageResult]
    traces: Sequence[TraceSection]
    cards: Sequence[SampleCard]
    config: str | None
    """Text of the run's `config.json`; None if there is no such file."""


def write_report(run_dir: Path) -> Path:
    """Write `curves.png` and the self-contained `report.html` of a run, finished or not, and return the page's path."""
    if not run_dir.is_dir():
        raise DataError(f"{run_dir}: no such run folder; give the folder that a run wrote, such as runs/NAME")
    results = read_results(run_dir)
    curves = draw_curves(run_dir.resolve().name, results, read_metrics(run_dir))
    write_atomically(run_dir / "curves.png", curves)
    config = run_dir / "config.json"
    page = ReportPage(
        name=run_dir.resolve().name,
        curves_url=png_url(curves),
        results=results,
        traces=list(trace_sections(run_dir)),
        cards=list(_cards(run_dir, results)),
        config=config.read_text() if config.exists() else None,
    )
    path = run_dir / "report.html"
    write_atomically(path, _templates().get_template("report.html").render(page=page))
    return path


def _templates() -> Environment:
    """Return the templates. They escape every value, and a name that does not exist is an error."""
    templates = Environment(
        loader=PackageLoader("ovt_ray.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters |= {"percent": _percent, "count": _count, "clock": clock_time, "label": stage_label, "colour": _colour}
    return templates


def _percent(share: float, num_digits: int = 1) -> str:
    return f"{share:.{num_digits}%}"


def _count(number: int) -> str:
    return f"{number:,}"


def _colour(result: StageResult) -> str:
    return STAGE_COLOURS.get(result.stage, "#596171")


def _cards(run_dir: Path, results: Sequence[StageResult]) -> Iterator[SampleCard]:
    """Yield a card for each problem with kept samples, in the order of the stages."""
    given: dict[str, list[tuple[str, SampleRecord]]] = {}
    for result in results:
        for sample in read_samples(run_dir, stage_key(result.iteration, result.stage)):
            given.setdefault(sample.problem.id, []).append((stage_label(result), sample))
    for samples in given.values():
        problem = samples[0][1].problem
        pictures = tuple(picture(source) for source in problem.images)
        yield SampleCard(problem, pictures, tuple(_answer(stage, sample) for stage, sample in samples))


def _answer(stage: str, sample: SampleRecord) -> StageAnswer:
    read = "no answer read" if sample.extracted is None else f"read as {sample.extracted}"
    why = f"{read}; reward {sample.reward:g}" + (f"; {sample.reason}" if sample.reason else "")
    return StageAnswer(stage=stage, response=sample.response, outcome=sample.outcome.value, why=why)
