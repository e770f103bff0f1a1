"""The verifier agrees with every verdict of the judged set: `judged/*.jsonl`, one file per kind and one of raw responses.

The verdicts follow the conventions of the benchmarks, not the verifier. A row has `gold`, `kind`, where needed `choices`,
`precision` and `unit`, and either `extraction` (compared as it is) or `response` (read leniently first). Its `verdict` is an
outcome, and `why` says what decides it.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from ovt_ray.core.types import AnswerKind, Problem
from reward.accuracy import score_answer, score_lenient

FILES = sorted((Path(__file__).parent / "judged").glob("*.jsonl"))
MIN_CASES = 1500
MAX_SHOWN = 40
VERDICTS = {"correct", "wrong", "unparseable", "unscorable"}
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

    def outcome(self) -> str:
        """Return what the verifier says."""
        if self.answer is not None:
            return score_answer(self.problem, self.answer).outcome.value
        assert self.response is not None, self.place
        return score_lenient(self.problem, self.response).outcome.value


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


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_verdict_is_the_judged_one(path: Path) -> None:
    cases = read_cases(path)
    outcomes = [(case, case.outcome()) for case in cases]
    missed = [
        f"{case.place}: {(case.answer if case.response is None else case.response)!r} for {case.problem.answer!r}"
        f" is {case.verdict}, not {outcome}: {case.why}"
        for case, outcome in outcomes
        if outcome != case.verdict
    ]
    assert not missed, f"{len(missed)} of {len(cases)} in {path.name}:\n" + "\n".join(missed[:MAX_SHOWN])


def test_the_set_is_large_enough_and_covers_every_kind() -> None:
    cases = [case for path in FILES for case in read_cases(path)]
    assert len(cases) >= MIN_CASES
    assert {case.problem.kind for case in cases} == set(AnswerKind)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_case_has_a_verdict_a_reason_and_one_text_to_judge(path: Path) -> None:
    for case in read_cases(path):
        assert case.verdict in VERDICTS, case.place
        assert case.why.strip(), case.place
        assert (case.answer is None) != (case.response is None), case.place


def test_right_and_wrong_answers_are_about_as_many() -> None:
    """Neither accepting nor refusing everything comes near to passing."""
    verdicts = Counter(case.verdict for path in FILES for case in read_cases(path))
    assert 0.4 <= verdicts["correct"] / verdicts.total() <= 0.6


def test_no_case_is_there_twice() -> None:
    seen = Counter(
        (problem.answer, problem.kind, problem.choices, problem.precision, problem.unit, case.answer, case.response)
        for path in FILES
        for case in read_cases(path)
        for problem in (case.problem,)
    )
    assert not [key for key, count in seen.items() if count > 1]
