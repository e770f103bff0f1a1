"""Several rewards as one: weights, names, and what an unscorable part does to the whole."""

from dataclasses import replace

import pytest

from ovt_ray.core.types import Failure, Outcome, Score
from reward.protocol import NoScoreError, Part, as_score, as_scores, unscorable
from reward.service.combine import combine

PARTS = (Part(name="a"), Part(name="b", weight=-0.5))
RIGHT = Score(value=1.0, outcome=Outcome.CORRECT, extracted="6", reason="exact")
LONG = Score(value=0.4, outcome=Outcome.WRONG, extracted=None, reason="long", parts={"words": 7.0})


def test_values_are_added_by_weight_and_the_first_part_decides_the_outcome() -> None:
    assert combine(PARTS, (RIGHT, LONG)) == Score(
        value=0.8, outcome=Outcome.CORRECT, extracted="6", reason="exact", parts={"a": 1.0, "b": 0.4, "b/words": 7.0}
    )
    assert combine(PARTS, (LONG, RIGHT)).outcome is Outcome.WRONG


def test_one_unscorable_part_makes_the_whole_unscorable_for_its_reason() -> None:
    score = combine(PARTS, (RIGHT, unscorable("too late", Failure.DEADLINE)))
    assert (score.value, score.outcome, score.reason, score.failure) == (0.0, Outcome.UNSCORABLE, "too late", Failure.DEADLINE)
    assert score.parts == {"a": 1.0} and score.extracted == "6"


@pytest.mark.parametrize(
    ("number", "outcome"), [(1, Outcome.CORRECT), (2.5, Outcome.CORRECT), (True, Outcome.CORRECT), (0.99, Outcome.WRONG)]
)
def test_a_bare_number_is_correct_from_one_on(number: float, outcome: Outcome) -> None:
    assert as_score(number) == Score(value=float(number), outcome=outcome, extracted=None)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("1", "neither a Score nor a number"),
        (None, "^returned NoneType, neither a Score nor a number$"),
        (float("inf"), "not a finite number"),
        (replace(RIGHT, outcome="good"), "Score that is no score"),
    ],
)
def test_what_is_no_score_is_refused(returned: object, message: str) -> None:
    with pytest.raises(NoScoreError, match=message):
        as_score(returned)


def test_a_batch_must_give_one_score_per_text() -> None:
    assert [score.value for score in as_scores((1, RIGHT), 2)] == [1.0, 1.0]
    with pytest.raises(NoScoreError, match="1 scores for 2 texts"):
        as_scores([1], 2)
    with pytest.raises(NoScoreError, match="not a list"):
        as_scores({1, 2}, 2)
