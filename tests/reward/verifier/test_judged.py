"""The verifier agrees with every verdict of the judged set."""

from collections import Counter
from pathlib import Path

import pytest

from ovt_ray.core.types import AnswerKind
from workloads.judged_answers import FILES, read_cases

MIN_CASES = 1500
MAX_SHOWN = 40
VERDICTS = {"correct", "wrong", "unparseable", "unscorable"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_verdict_is_the_judged_one(path: Path) -> None:
    cases = read_cases(path)
    outcomes = [(case, case.score().outcome.value) for case in cases]
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
