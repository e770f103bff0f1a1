"""From chains to traces: of those whose answer verifies, one per problem is chosen.

The rules are the paper's (arXiv 2503.17352, section 3): reflections are cut off with the final answer kept, long chains
are dropped, and of the correct ones the shortest is taken.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ovt_ray.chains import Chains
from ovt_ray.files import read_json_lines, write_json_atomically, write_json_lines_atomically
from ovt_ray.problem_rows import to_problem
from ovt_ray.problems import problem_row
from ovt_ray.types import Outcome, Trace

REFLECTION = re.compile(r"\b(?:But wait|But the question|But hold on|Wait|Hold on|Alternatively|Let me double-check)\b")
"""Where a chain starts to doubt itself; the paper cuts there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilReport:
    """How many were asked, answered, correct and kept, and what dropped the others."""

    num_problems: int
    num_uncaptioned: int
    """Problems without responses because the captioner said nothing of them."""
    num_responses: int
    num_correct: int
    num_unparseable: int
    num_unscorable: int
    num_thoughtless: int
    """Correct responses with nothing between the think tags, after reflections were cut."""
    num_too_long: int
    """Correct responses of more than `max_words` words, after reflections were cut."""
    num_reflections_cut: int
    num_traces: int
    """Problems for which a trace was chosen."""


def cut_reflection(response: str) -> str:
    """Return the response with its thinking cut at the first reflection and its final answer kept."""
    thinking, closing, rest = response.partition("</think>")
    found = REFLECTION.search(thinking)
    if not found or not closing:
        return response
    return f"{thinking[: found.start()].rstrip()} {closing}{rest}"


def select(chains: Sequence[Chains], max_words: int) -> tuple[list[Trace], DistilReport]:
    """Return at most one trace per problem, the shortest correct one in words, and the count of everything else."""
    scores = [score for chain in chains for score in chain.scores]
    traces, num_thoughtless, num_too_long, num_cut = [], 0, 0, 0
    for chain in chains:
        correct = [text for text, score in zip(chain.responses, chain.scores, strict=True) if score.outcome is Outcome.CORRECT]
        cut = [cut_reflection(text) for text in correct]
        num_cut += sum(after != before for after, before in zip(cut, correct, strict=True))
        reasoned = [text for text in cut if text.partition("</think>")[0].removeprefix("<think>").strip()]
        num_thoughtless += len(cut) - len(reasoned)
        short = [text for text in reasoned if len(text.split()) <= max_words]
        num_too_long += len(reasoned) - len(short)
        if short:
            traces.append(Trace(problem=chain.problem, response=min(short, key=lambda text: len(text.split()))))
    outcomes = [score.outcome for score in scores]
    return traces, DistilReport(
        num_problems=len(chains),
        num_uncaptioned=sum(chain.caption == "" for chain in chains),
        num_responses=len(scores),
        num_correct=outcomes.count(Outcome.CORRECT),
        num_unparseable=outcomes.count(Outcome.UNPARSEABLE),
        num_unscorable=outcomes.count(Outcome.UNSCORABLE),
        num_thoughtless=num_thoughtless,
        num_too_long=num_too_long,
        num_reflections_cut=num_cut,
        num_traces=len(traces),
    )


def write_traces(folder: Path, traces: Sequence[Trace], report: DistilReport) -> Path:
    """Write `traces.jsonl` and `report.json` and return the former's path."""
    path = folder / "traces.jsonl"
    write_json_lines_atomically(path, [{**problem_row(trace.problem, folder), "response": trace.response} for trace in traces])
    write_json_atomically(folder / "report.json", asdict(report))
    return path


def read_traces(path: Path) -> list[Trace]:
    """Return the traces that `write_traces` wrote."""
    return [Trace(response=row.pop("response"), problem=to_problem(row, path.parent)) for row in read_json_lines(path)]
