"""Which LaTeX expressions, tuples, intervals, sets and lists mean the same, and what is never computed."""

import time

import pytest

from ovt_ray.core.types import AnswerKind, Problem
from reward.verifier.equivalence import is_equivalent
from reward.verifier.symbolic import is_expression, is_safe

EXPRESSIONS = [
    (r"2\sqrt{3}", r"2 \sqrt3", True, "braces and blanks"),
    (r"2\sqrt{3}", "2sqrt(3)", True, "typed plainly"),
    (r"2\sqrt{3}", "2√3", True, "in Unicode"),
    (r"2\sqrt{3}", r"\sqrt{12}", True, "another form"),
    (r"2\sqrt{3}", r"$2\sqrt{3}$ cm", True, "a unit"),
    (r"2\sqrt{3}", r"3\sqrt{2}", False, "another value"),
    (r"2\sqrt{3}", "3.464", True, "three digits after the point stand for an irrational number"),
    (r"2\sqrt{3}", "3.46", False, "two do not"),
    (r"2\sqrt{3}", "3.465", False, "nor wrong ones"),
    (r"\frac{1}{2}", "0.5", True, "a decimal"),
    (r"\frac{1}{2}", r"\dfrac{2}{4}", True, "not reduced"),
    (r"\frac{1}{2}", "\x0crac{1}{2}", True, "a command whose backslash was lost"),
    (r"\frac{32}{3}", r"\frac { 32 } { 3 }", True, "blanks in braces"),
    (r"9\pi", "9π", True, "pi"),
    (r"9\pi", "9π cm^2", True, "with a unit"),
    (r"9\pi", "9", False, "a factor left out"),
    ("x^2-1", "(x-1)(x+1)", True, "factored"),
    ("x^2-1", "(x+1)^2", False, "another polynomial"),
    (r"\frac{1}{4}(a^2+b^2)", r"\frac{a^{2}+b^{2}}{4}", True, "a fraction before brackets"),
    ("a^2/2", r"\frac{1}{2} a^{2}", True, "a power before a bar"),
    (r"\frac{1}{2}x", r"\frac{1}{2x}", False, "what is below the bar counts"),
    (r"\frac{3}{4}", "3:4", False, "a ratio is not its quotient"),
    ("5x", "5", False, "a variable left out"),
    ("5", "5x", False, "or put in"),
    ("y=2x+1", "2x+1", True, "the right side of a function"),
    ("2x+1", "y = 1+2x", True, "or all of it"),
    ("y=2x+1", "y-2x=1", True, "an equation in another form"),
    ("x=3", "y=3", False, "another unknown"),
    ("2a", "2A", False, "a and A are two variables"),
    ("x^2+y^2=1", "x^2+y^2=2", False, "another circle"),
    ("x>3", "3<x", True, "an inequality read from the right"),
    ("x>3", "x<3", False, "turned round"),
    ("x>3", r"x \ge 3", False, "with its end"),
    ("x=2, x=3", "3 and 2", True, "solutions have no order"),
    ("2, 3", "2", False, "one is missing"),
    ("2, 3", "2, 3, 4", False, "one too many"),
    ("2, 2", "2, 3", False, "each item has its own equal"),
    ("(1,2)", "( 1, 2 )", True, "a point"),
    ("(1,2)", "(2,1)", False, "is ordered"),
    ("(1,2)", "1, 2", True, "its brackets may be left out"),
    ("(1,2)", "[1,2]", False, "an interval with its ends is another one"),
    ("[1,2)", "(1,2]", False, "so is one with the other end"),
    ("[1,2]", r"x \in [1, 2]", True, "a name for its elements says nothing"),
    (r"(-\infty,2)", r"\left(-\infty, 2\right)", True, "infinity"),
    (r"[0,1)\cup(2,3]", "(2,3] ∪ [0,1)", True, "unions have no order"),
    (r"[0,1)\cup(2,3]", r"[0,1]\cup[2,3]", False, "but ends"),
    (r"\{1,2\}", r"\{2, 1\}", True, "nor have sets"),
    (r"\{1,2\}", r"\{1, 2, 3\}", False, "but a size"),
    (r"(\frac{1}{2}, \sqrt{4})", "(0.5, 2)", True, "items by value"),
    (r"\text{even}", "Even", True, "a word"),
    ("3:4", "4:3", False, "ratios are ordered"),
    ("(1,2)", "x = 1, y = 2", True, "a point by the names of its coordinates"),
    ("(1,2)", "y = 1, x = 2", False, "which say their order"),
    ("(1,2)", "A(1,2)", True, "the name of a point"),
    ("[1,2)", r"1 \le x < 2", True, "an interval as an inequality"),
    ("[1,2)", "2 > x > 1", False, "with its ends"),
    (r"(-\infty,1)\cup(2,\infty)", r"x<1 \text{ or } x>2", True, "a union too"),
    ("x<1", "y<1", False, "of the same unknown"),
    (r"\{-2,2\}", r"x = \pm 2", True, "both signs"),
    ("2", r"\pm 2", False, "are two values"),
    (
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
        r"\begin{bmatrix}1&2\\3&\frac{8}{2}\end{bmatrix}",
        True,
        "a matrix in other brackets",
    ),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}", False, "not transposed"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}", False, "nor its determinant"),
    ("3:2", "3:2:1", False, "a ratio of two terms"),
    (r"\sin 30^\circ", "0.5", True, "degrees"),
    (r"\binom{5}{2}", r"\frac{5!}{2!3!}", True, "a binomial coefficient"),
    ("3+4i", r"3+4\mathrm{i}", True, "the imaginary unit upright"),
    (r"\frac{\sqrt{2}}{2}", "√2/2", True, "a plain root over a number"),
    (r"10\sqrt{3}\text{ m}", r"10\sqrt{3}\text{ km}", False, "another unit"),
    (r"10\sqrt{3}\text{ m}", r"10\sqrt{3}", True, "which may be left out"),
    ("5", "the answer is 5", False, "prose is never parsed"),
    ("5", "about 3 or 5", False, "nor its last number taken"),
]

LISTS = [
    ("[2014, 2016]", "2014, 2016", True, "brackets are spelling"),
    ("[2014, 2016]", "2014 and 2016", True, "so is `and`"),
    ("[2014, 2016]", "[2016, 2014]", False, "order counts"),
    ("{2014, 2016}", "[2016, 2014]", True, "except in a set"),
    ("[2014, 2016]", "[2014]", False, "one is missing"),
    ("[0, 2, 0]", "[0, 0, 2]", False, "repetitions count"),
    ("[0, 2, 0]", "[0.0, 2.0, 0.0]", True, "items by value"),
    ("['red', 'blue']", "red, blue", True, "items may be words"),
    ("['red', 'blue']", "red or blue", False, "an alternative is no list"),
    ("[1, 2]", "[[1, 2], [1, 2]]", False, "nor is a list of it"),
]

UNSAFE = [
    "9^{9^{9}}",
    "(9^{99})^{99}",
    "100!",
    "9" * 30,
    "(" * 50 + "1",
    r"\sum_{n=1}^{9}n",
    r"\int_0^1 x",
    "(x+1)^{999}",
    "x^y^z",
    "__import__('os')",
]


@pytest.mark.parametrize(("gold", "answer", "expected", "why"), EXPRESSIONS)
def test_expressions_are_equal_by_meaning(gold: str, answer: str, expected: bool, why: str) -> None:
    assert is_equivalent(answer, _problem(gold, AnswerKind.LATEX)) is expected, why


@pytest.mark.parametrize(("gold", "answer", "expected", "why"), LISTS)
def test_lists_are_equal_item_by_item(gold: str, answer: str, expected: bool, why: str) -> None:
    assert is_equivalent(answer, _problem(gold, AnswerKind.LIST)) is expected, why


@pytest.mark.parametrize("expression", UNSAFE)
def test_what_could_grow_without_bound_is_wrong_at_once(expression: str) -> None:
    start = time.monotonic()
    assert not is_safe(expression)
    assert not is_equivalent(expression, _problem(r"\sqrt{7}", AnswerKind.LATEX))
    assert time.monotonic() - start < 0.1


def test_mathematics_is_told_from_prose() -> None:
    assert all(map(is_expression, ["x+1", r"\frac{\sqrt{3}}{2}", "sin x", "AB + BC", "3:4"]))
    assert not any(map(is_expression, ["", "the area", r"\write18{ls}", "import os"]))


def _problem(gold: str, kind: AnswerKind) -> Problem:
    return Problem(id="p1", question="?", images=(), answer=gold, kind=kind)
