"""Values at points tell equal expressions from unequal ones, and say nothing of what they cannot read."""

import pytest
from sympy import Symbol, sympify

from reward.verifier.numeric_equality import POINTS, agree


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (r"\frac{a}{b+c}", r"\frac{a}{b}+\frac{a}{c}"),
        (r"\sqrt{x^{2}}", "x"),
        (r"2^{-1}", "2"),
        (r"\frac{\sqrt{3}}{2}", r"\sqrt{3}"),
        (r"2\pi", r"\pi^{2}"),
        ("x_1", "x_2"),
        ("x^{2}+y^{2}=25", "x^{2}-y^{2}=25"),
        (r"y=\frac{3}{4}x+3", "3x+4y=12"),
        ("-x", "x"),
        ("|x-3|", "x-3"),
    ],
)
def test_unequal_expressions_differ_at_some_point(first: str, second: str) -> None:
    assert agree(first, second) is False and agree(second, first) is False


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (r"\frac{1}{2}", "0.5"),
        ("(x+1)^{2}", "x^{2}+2x+1"),
        (r"\frac{6}{\sqrt{3}}", r"2\sqrt{3}"),
        (r"\sqrt[4]{16}", "2"),
        ("-(a-b)", "b-a"),
        (r"3 \cdot x \div 3", "x"),
        ("i^{2}", "-1"),
        ("3x+4y=12", r"y=-\frac{3}{4}x+3"),
        ("x^{2}+y^{2}=25", "2x^{2}+2y^{2}=50"),
        ("|x-3|", "|3-x|"),
        (r"\sqrt{x^{2}}", "|x|"),
        ("x-x", "2-2"),
    ],
)
def test_equal_expressions_agree(first: str, second: str) -> None:
    assert agree(first, second) is True and agree(second, first) is True


@pytest.mark.parametrize(
    "unread",
    [
        r"\ln 2",
        "5!",
        "1/2x",
        r"2\frac{1}{3}",
        "(1, 2)",
        r"\sqrt[3]{-8}",
        "x<2",
        "x/0",
        "9^{9^{9}}",
        "((1)",
        "2sqrt(3)",
        "||x||",
        "x^{20}+1",
        "10^{20}",
        "1234567890.5",
        "1.000001",
        "\ud800",
        "",
    ],
)
def test_what_is_not_read_here_is_left_to_others(unread: str) -> None:
    assert agree(unread, "1") is None


def test_an_equation_that_is_no_polynomial_is_left_to_others() -> None:
    assert agree(r"\frac{x}{y}=2", "x=2y") is None


def test_values_are_those_of_sympy() -> None:
    """The difference of an expression and sympy's value of it at a point is nothing."""
    x = Symbol("x")
    text, plain = r"\frac{3x^{2}-\sqrt{x^{2}+1}}{(x+2)^{3}}-0.5x \cdot 4", "(3*x**2-sqrt(x**2+1))/(x+2)**3-0.5*x*4"
    from reward.verifier.numeric_equality import _Reader, _scale

    expected = [complex(sympify(plain).subs(x, point * _scale("x"))) for point in POINTS]
    assert _Reader(text).read() == pytest.approx(expected, rel=1e-12)
