"""The judged set: answers with the verdict that a verifier has to reach. `judged/*.jsonl` holds one file per kind and one of raw responses.

The verdicts follow the conventions of the benchmarks, not the verifier. A row has `gold`, `kind`, where needed `choices`,
`precision` and `unit`, and either `extraction` (compared as it is) or `response` (read leniently first). Its `verdict` is an
outcome, and `why` is the reason for it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from ovt_ray.core.types import AnswerKind, Problem, Score
from reward.accuracy import score_answer, score_lenient

FILES = sorted((Path(__file__).parent / "judged").glob("*.jsonl"))
FIELDS = {"gold", "kind", "choices", "precision", "unit", "question", "extraction", "response", "verdict", "why"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One judged answer."""

    place: str
    """File and line."""
    problem: Problem
    answer: str | None
    """An extracted answer; None where `response` is given."""
    response: str | None
    verdict: str
    why: str

    def score(self) -> Score:
        """Return the score of the extracted answer, or of the whole response."""
        if self.answer is not None:
            return score_answer(self.problem, self.answer)
        assert self.response is not None, self.place
        return score_lenient(self.problem, self.response)


def read_cases(path: Path) -> list[Case]:
    """Return the cases of one file, in order."""
    cases = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        row = json.loads(line)
        assert row.keys() <= FIELDS, f"{path.name}:{number}: unknown {row.keys() - FIELDS}"
        problem = Problem(
            id=f"{path.stem}-{number}",
            question=row.get("question", ""),
            images=(),
            answer=row["gold"],
            kind=AnswerKind(row["kind"]),
            choices=tuple(row.get("choices", ())),
            precision=row.get("precision"),
            unit=row.get("unit", ""),
        )
        case = Case(
            place=f"{path.name}:{number}",
            problem=problem,
            answer=row.get("extraction"),
            response=row.get("response"),
            verdict=row["verdict"],
            why=row["why"],
        )
        cases.append(case)
    return cases
