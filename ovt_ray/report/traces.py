"""The part of `report.html` about traces: the fate of every chain, by source, and a few chains that each filter dropped."""

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovt_ray.core.types import ImageSource, Outcome
from ovt_ray.distillation.accounts import CORRECT_FATES, num_correct
from ovt_ray.report.pictures import Picture, picture

UNREAD = (Outcome.UNPARSEABLE.value, Outcome.UNSCORABLE.value)
"""Fates of answers that the reward could not judge. The table shows only fates that occur."""
TITLES = {"per_source": "quota", "not_selected": "not chosen"}
"""Names of fates in the table, where they differ from the names in `report.json`."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row of the table: the chains of one source of problems."""

    source: str
    counts: Sequence[int]
    """Number of chains below each title but the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedChain:
    """A correct chain that a filter dropped, and its problem."""

    question: str
    gold: str
    pictures: Sequence[Picture]
    filter: str
    reason: str
    response: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSection:
    """One distillation: a table and cards of dropped chains."""

    iteration: int
    titles: Sequence[str]
    rows: Sequence[SourceRow]
    dropped: Sequence[DroppedChain]


def trace_sections(run_dir: Path) -> Iterator[TraceSection]:
    """Yield a section for each distillation that is finished, in order."""
    numbers = sorted(int(found[1]) for path in run_dir.glob("iter*/distil") if (found := re.fullmatch(r"iter(\d+)", path.parent.name)))
    for number in numbers:
        folder = run_dir / f"iter{number}" / "distil"
        if (path := folder / "report.json").exists():
            yield _section(number, json.loads(path.read_text()), folder)


def _section(iteration: int, report: Mapping[str, Any], folder: Path) -> TraceSection:
    unread, dropped = ([fate for fate in fates if report["fates"][fate]] for fates in (UNREAD, CORRECT_FATES[:-1]))
    by_source = report["by_source"]
    rows = [_row(source or "(no name)", fates, unread, dropped) for source, fates in by_source.items()]
    if len(by_source) > 1:
        rows.insert(0, _row("all", report["fates"], unread, dropped))
    return TraceSection(
        iteration=iteration,
        titles=["source", "asked", "answered", *unread, "correct", *(TITLES.get(fate, fate) for fate in dropped), "traces"],
        rows=rows,
        dropped=[_dropped(example, folder) for example in report["examples"]],
    )


def _row(source: str, fates: Mapping[str, int], unread: list[str], dropped: list[str]) -> SourceRow:
    num_asked = sum(fates.values())
    judged = [*(fates.get(fate, 0) for fate in unread), num_correct(fates), *(fates.get(fate, 0) for fate in (*dropped, "trace"))]
    return SourceRow(source, [num_asked, num_asked - fates.get("unanswered", 0), *judged])


def _dropped(example: Mapping[str, Any], folder: Path) -> DroppedChain:
    problem = example["problem"]
    return DroppedChain(
        question=problem["question"],
        gold=problem["answer"],
        pictures=[picture(_source(stored, folder)) for stored in problem["images"]],
        filter=TITLES.get(example["filter"], example["filter"]),
        reason=example["reason"],
        response=example["response"],
    )


def _source(stored: str | Mapping[str, str], folder: Path) -> ImageSource:
    return str(folder / stored) if isinstance(stored, str) else base64.b64decode(stored["base64"])
