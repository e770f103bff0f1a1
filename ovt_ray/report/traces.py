"""The part of `report.html` about traces: what became of every chain, by source, and a few of those that each filter dropped."""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from ovt_ray.core.types import ImageSource, Outcome
from ovt_ray.distillation.accounts import CORRECT_FATES, num_correct

UNREAD = (Outcome.UNPARSEABLE.value, Outcome.UNSCORABLE.value)
"""Fates of answers that the reward could not judge, shown where there are any."""
TITLES = {"per_source": "quota", "not_selected": "not chosen"}
"""Names of fates in the table, where they are not those of the report."""


def trace_sections(run_dir: Path, image: Callable[[ImageSource], str]) -> Iterator[str]:
    """Yield a table, and cards of dropped chains, of each distillation that is finished. `image` returns a picture as an element."""
    numbers = sorted(int(found[1]) for path in run_dir.glob("iter*/distil") if (found := re.fullmatch(r"iter(\d+)", path.parent.name)))
    for number in numbers:
        folder = run_dir / f"iter{number}" / "distil"
        if (path := folder / "report.json").exists():
            report = json.loads(path.read_text())
            yield f"<h2>Traces of iteration {number}</h2>\n{_table(report)}\n"
            yield from (_card(example, folder, image) for example in report["examples"])


def _table(report: Mapping[str, Any]) -> str:
    unread, dropped = ([fate for fate in fates if report["fates"][fate]] for fates in (UNREAD, CORRECT_FATES[:-1]))
    titles = ["source", "asked", "answered", *unread, "correct", *(TITLES.get(fate, fate) for fate in dropped), "traces"]
    by_source = report["by_source"]
    rows = [_row(source or "(no name)", fates, unread, dropped) for source, fates in by_source.items()]
    if len(by_source) > 1:
        rows.insert(0, _row("all", report["fates"], unread, dropped))
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    return f'<div class="panel scroll"><table class="counts"><tr>{head}</tr>\n{"".join(rows)}</table></div>'


def _row(source: str, fates: Mapping[str, int], unread: list[str], dropped: list[str]) -> str:
    num_asked = sum(fates.values())
    answered = [num_asked, num_asked - fates.get("unanswered", 0)]
    counts = [
        *answered,
        *(fates.get(fate, 0) for fate in unread),
        num_correct(fates),
        *(fates.get(fate, 0) for fate in (*dropped, "trace")),
    ]
    return f"<tr><td>{escape(source)}</td>{''.join(f'<td>{count:,}</td>' for count in counts)}</tr>\n"


def _card(example: Mapping[str, Any], folder: Path, image: Callable[[ImageSource], str]) -> str:
    problem = example["problem"]
    images = "".join(image(_source(stored, folder)) for stored in problem["images"])
    asked = f'<p class="question">{escape(problem["question"])}</p><p class="gold">gold answer: <b>{escape(problem["answer"])}</b></p>'
    fate = TITLES.get(example["filter"], example["filter"])
    why = f'<p class="gold">dropped by <b>{escape(fate)}</b>: {escape(example["reason"])}</p>'
    response = f'<pre class="dropped">{escape(example["response"])}</pre>'
    return f'<div class="panel card"><div>{images}</div><div>{asked}{why}{response}</div></div>\n'


def _source(stored: str | Mapping[str, str], folder: Path) -> ImageSource:
    return str(folder / stored) if isinstance(stored, str) else base64.b64decode(stored["base64"])
