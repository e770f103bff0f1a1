"""Which left sides of an equation let its right side be read as the value."""

import time

import pytest

from reward.verifier.equations import gives_value, hides_value


@pytest.mark.parametrize(
    "side", ["x", "AB", "∠ABC", "m∠A", "f(2)", "a_1", "Area", "Area of the triangle", "2 + 3", "3 cm × 4 cm", "10% of 50"]
)
def test_a_name_or_arithmetic_gives_the_value(side: str) -> None:
    assert gives_value(side)


@pytest.mark.parametrize(
    "side", ["x^2", "2x", "-x", "|x|", "x + 1", "1/x", "x'", "f(x)", "sin x", "log x", "AB^2", "AB + BC", "\\sqrt{x}", "5"]
)
def test_what_still_holds_an_unknown_or_is_a_number_gives_none(side: str) -> None:
    assert not gives_value(side)


def test_the_first_side_of_the_last_clause_decides() -> None:
    assert hides_value("By Pythagoras, AB^2 = 25 - 9 =")
    assert not hides_value("2x = 8, so x =")
    assert not hides_value("The area is")


@pytest.mark.parametrize("unit", ["a", "AB ", "A'", "A_1", "m ∠ ", "(a ", "1 ", "a_{"])
def test_a_long_side_is_read_at_once(unit: str) -> None:
    start = time.monotonic()
    gives_value((unit * 120)[:119] + "!")
    assert time.monotonic() - start < 0.1
