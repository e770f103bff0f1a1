"""Records the fate of every requested chain in `report.json` and `dropped.jsonl`."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovt_ray.core.files import write_json_atomically, write_json_lines_atomically
from ovt_ray.core.types import Outcome, Problem
from ovt_ray.data.rows import problem_row
from ovt_ray.distillation.filters import FILTERS, Candidate

CORRECT_FATES = (*FILTERS, "duplicate", "per_source", "not_selected", "trace")
"""Possible fates of a correct chain, in the order of the decisions. The last fate is to be kept."""
FATES = ("unanswered", *(outcome.value for outcome in Outcome if outcome is not Outcome.CORRECT), *CORRECT_FATES)
"""Possible fates of a requested chain. Each chain has exactly one fate."""
MAX_EXAMPLES = 3
"""Upper bound on the dropped chains per filter that the report shows, each of a different problem."""
MAX_EXAMPLE_CHARS = 2000
"""Upper bound on the characters that the report shows of an example."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """A correct chain that is no trace, and the reason."""

    candidate: Candidate
    filter: str
    """Fate of the chain: a filter's name, `duplicate` or `per_source`."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilReport:
    """The number of requested chains, and the number of chains with each fate."""

    num_problems: int
    num_asked: int
    """Number of requested chains: problems times chains per problem."""
    num_reflections_cut: int
    """Number of correct chains that were cut at a doubt."""
    by_source: Mapping[str, Mapping[str, int]]
    """Number of chains with each fate, by `Problem.source`. Fates without chains are left out."""

    @property
    def fates(self) -> Counter[str]:
        """Number of chains with each fate."""
        return sum((Counter(fates) for fates in self.by_source.values()), Counter())

    @property
    def num_responses(self) -> int:
        """Number of answered chains."""
        return self.num_asked - self.fates["unanswered"]

    @property
    def num_correct(self) -> int:
        """Number of chains with a correct answer."""
        return num_correct(self.fates)

    @property
    def num_traces(self) -> int:
        """Number of chains that were kept."""
        return self.fates["trace"]

    @property
    def summary(self) -> str:
        """Summary in a line, for a person."""
        fates = self.fates
        dropped = ", ".join(f"{fates[fate]} by {fate}" for fate in CORRECT_FATES[:-2] if fates[fate])
        return (
            f"{self.num_responses} chains: {self.num_correct} correct, {self.num_reflections_cut} with reflections cut; "
            f"dropped {dropped or 'none'}; {self.num_traces} traces kept for {self.num_problems} problems"
        )


def num_correct(fates: Mapping[str, int]) -> int:
    """Return the number of correct chains among chains with these fates."""
    return sum(fates.get(fate, 0) for fate in CORRECT_FATES)


class Accounts:
    """Counts the fate of each chain as it is decided."""

    def __init__(self) -> None:
        self.drops: list[Drop] = []
        self.num_reflections_cut = 0
        self._by_source: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def count(self, problem: Problem, fate: str, num_chains: int = 1) -> None:
        """Count chains of a problem with the same fate."""
        self._by_source[problem.source][fate] += num_chains

    def drop(self, candidate: Candidate, fate: str, reason: str) -> None:
        """Count and remember a correct chain that was dropped."""
        self.count(candidate.problem, fate)
        self.drops.append(Drop(candidate=candidate, filter=fate, reason=reason))

    def report(self, num_problems: int) -> DistilReport:
        """Return the report of all counts."""
        by_source = {source: {fate: fates[fate] for fate in FATES if fates[fate]} for source, fates in sorted(self._by_source.items())}
        num_asked = sum(sum(fates.values()) for fates in by_source.values())
        return DistilReport(
            num_problems=num_problems, num_asked=num_asked, num_reflections_cut=self.num_reflections_cut, by_source=by_source
        )


def write_accounts(folder: Path, report: DistilReport, drops: Sequence[Drop]) -> None:
    """Write `report.json` with a few examples of each filter's drops, and `dropped.jsonl` with a row per drop."""
    rows = (
        {"id": drop.candidate.problem.id, "index": drop.candidate.index, "filter": drop.filter, "reason": drop.reason} for drop in drops
    )
    write_json_lines_atomically(folder / "dropped.jsonl", rows)
    write_json_atomically(
        folder / "report.json",
        {
            "num_problems": report.num_problems,
            "num_asked": report.num_asked,
            "num_responses": report.num_responses,
            "num_correct": report.num_correct,
            "num_reflections_cut": report.num_reflections_cut,
            "num_traces": report.num_traces,
            "fates": {fate: report.fates[fate] for fate in FATES},
            "by_source": report.by_source,
            "examples": [_example(drop, folder) for drop in _examples(drops)],
        },
    )


def _examples(drops: Sequence[Drop]) -> list[Drop]:
    """Return the first drops of each filter, each of a different problem, filter by filter."""
    shown: defaultdict[str, dict[str, Drop]] = defaultdict(dict)
    for drop in drops:
        if len(shown[drop.filter]) < MAX_EXAMPLES:
            shown[drop.filter].setdefault(drop.candidate.problem.id, drop)
    return [drop for fate in CORRECT_FATES for drop in shown[fate].values()]


def _example(drop: Drop, folder: Path) -> dict[str, Any]:
    text = drop.candidate.response
    shown = text if len(text) <= MAX_EXAMPLE_CHARS else f"{text[:MAX_EXAMPLE_CHARS]} ... ({len(text):,} characters)"
    return {
        "filter": drop.filter,
        "reason": drop.reason,
        "problem": problem_row(drop.candidate.problem, folder),
        "index": drop.candidate.index,
        "response": shown,
    }
