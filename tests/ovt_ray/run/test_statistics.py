"""The Wilson interval against published values and an independent solution of its defining equation."""

import pytest

from ovt_ray.run.statistics import wilson_interval


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_are_the_published_ones(correct: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("correct", "total"), [(3, 7), (200, 400), (399, 400)])
def test_both_ends_are_1_96_of_their_own_standard_errors_away(correct: int, total: int) -> None:
    for end in wilson_interval(correct, total):
        distance = abs(end - correct / total) / (end * (1 - end) / total) ** 0.5
        assert distance == pytest.approx(1.959964, abs=1e-5)


def test_all_correct_mirrors_none_correct() -> None:
    low, high = wilson_interval(20, 20)
    assert high == 1.0
    assert low == pytest.approx(1 - wilson_interval(0, 20)[1])


def test_nothing_counted_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_more_correct_than_total_is_refused() -> None:
    with pytest.raises(ValueError, match="5 correct of 4"):
        wilson_interval(5, 4)
