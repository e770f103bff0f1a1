"""The parts that shape a reward, each against values worked by hand from its formula."""

import pytest

from ovt_ray.core.types import AnswerKind, Outcome, Problem
from reward.shaping import LengthPenalty, OverlongPenalty, RepetitionPenalty, score_explained, score_format

PROBLEM = Problem(id="p1", question="?", images=(), answer="6", kind=AnswerKind.NUMBER)


@pytest.mark.parametrize(("num_tokens", "value"), [(0, 0.0), (10, 0.0), (20, -0.25), (30, -0.5), (50, -1.0), (500, -1.0)])
def test_the_length_penalty_is_a_straight_line_between_its_bounds(num_tokens: int, value: float) -> None:
    assert LengthPenalty(max_tokens=50, free_tokens=10)(PROBLEM, "", num_tokens) == value


@pytest.mark.parametrize(("num_tokens", "value"), [(1, 0.0), (80, 0.0), (85, -0.25), (90, -0.5), (100, -1.0), (101, -1.0)])
def test_the_overlong_penalty_is_equation_13(num_tokens: int, value: float) -> None:
    assert OverlongPenalty(max_tokens=100, buffer_tokens=20)(PROBLEM, "", num_tokens) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", 0.0),
        ("one two", 0.0),
        ("a b c d e", 0.0),
        ("a b c A B C", -0.25),  # abc bca cab abc: three distinct of four
        ("no no no no no no", -0.75),  # one distinct of four
    ],
)
def test_the_repetition_penalty_is_the_share_of_repeated_trigrams(text: str, value: float) -> None:
    assert RepetitionPenalty(num_words=3)(PROBLEM, text) == value


def test_format_is_one_where_an_answer_can_be_read_right_or_wrong() -> None:
    assert [score_format(PROBLEM, text).value for text in ("<think> a </think> <answer> 7 </answer>", "7")] == [1.0, 0.0]
    assert "does not begin with <think>" in score_format(PROBLEM, "7").reason


@pytest.mark.parametrize(
    ("text", "value", "outcome"),
    [
        ("<think> a </think> So it is six. <answer> 6 </answer>", 1.0, Outcome.CORRECT),
        ("<think> a </think> <answer> 6 </answer>", 0.5, Outcome.CORRECT),
        ("<think> a </think> <answer> 7 </answer>", 0.0, Outcome.WRONG),
        ("6", 0.0, Outcome.UNPARSEABLE),
    ],
)
def test_a_right_answer_without_a_word_after_the_thinking_counts_half(text: str, value: float, outcome: Outcome) -> None:
    score = score_explained(PROBLEM, text)
    assert (score.value, score.outcome) == (value, outcome)


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="0 <= free_tokens < max_tokens"):
        LengthPenalty(max_tokens=5, free_tokens=5)
    with pytest.raises(ValueError, match="0 < buffer_tokens <= max_tokens"):
        OverlongPenalty(max_tokens=5, buffer_tokens=0)
    with pytest.raises(ValueError, match="num_words >= 1"):
        RepetitionPenalty(num_words=0)
