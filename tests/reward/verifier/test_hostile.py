"""No hostile answer is accepted, executed, or waited for past its deadline, and none leaves a process behind.

A sample of what `python -m benchmarks.hostile` runs in full.
"""

from collections import Counter
from pathlib import Path

import pytest

from ovt_ray.core.types import AnswerKind, Problem
from workloads.hostile_answers import CANARY, FAMILIES, NUM_PAIRS, TARGETS, hostile_answers
from workloads.survival import REWARDS, TOLERANCE_S, survive

NUM_ANSWERS = 600
"""Answers in the default run, shared between the rewards."""
DEADLINE_S = 2.0
OBEY = f"{Path(__file__).parents[1]}/obedient_reward.py:obey"


@pytest.mark.heavy
def test_hostile_answers_are_survived_in_time_and_never_right() -> None:
    tally = survive(hostile_answers(NUM_ANSWERS, seed=1), REWARDS, DEADLINE_S)
    assert tally.num_answers == NUM_ANSWERS
    assert tally.accepted == []
    assert tally.num_executed == 0
    assert tally.num_leaked_processes == 0
    assert tally.num_past_deadline == 0, f"up to {tally.max_overrun_s:.2f} s late, {TOLERANCE_S:g} s are allowed"


@pytest.mark.heavy
@pytest.mark.parametrize("reward", REWARDS)
def test_an_answer_after_hostile_ones_is_still_scored_right(reward: str) -> None:
    """The tally's count of accepted answers means something: a right one among hostile ones is counted."""
    problem = Problem(id="p", question="?", images=(), answer="271829", kind=AnswerKind.NUMBER)
    cases = [*hostile_answers(len(FAMILIES), seed=2), (problem, "<think>Easy.</think><answer>271829</answer>")]
    tally = survive(cases, [reward], DEADLINE_S)
    assert len(tally.accepted) == 1


@pytest.mark.heavy
def test_what_goes_wrong_is_counted() -> None:
    """A reward that hangs, runs what it is told and accepts everything: none of it escapes the tally."""
    problem = Problem(id="p", question="?", images=(), answer="6", kind=AnswerKind.NUMBER)
    tally = survive([(problem, "hang"), (problem, f"once {CANARY}"), (problem, "fine")], [OBEY], deadline_s=0.5)
    assert tally.num_killed == 2
    assert tally.num_executed == 1
    assert len(tally.accepted) == 1
    assert tally.num_leaked_processes == 0
    assert 0 <= tally.max_overrun_s < TOLERANCE_S


def test_the_same_seed_gives_the_same_answers() -> None:
    def sample(seed: int) -> list[tuple[Problem, str]]:
        return list(hostile_answers(60, seed))

    assert sample(3) == sample(3)
    assert sample(3) != sample(4)


def test_every_family_meets_every_problem_equally_often() -> None:
    problems = Counter(problem.id for problem, _ in hostile_answers(NUM_PAIRS, seed=0))
    assert problems == {target.problem.id: len(FAMILIES) for target in TARGETS}
    assert {target.problem.kind for target in TARGETS} == set(AnswerKind)
