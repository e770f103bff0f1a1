"""Properties of the verifier over generated answers: how an answer is written does not matter, and equality is symmetric."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovt_ray.core.types import AnswerKind, Problem
from reward.accuracy import score_answer, score_lenient
from reward.verifier.equivalence import is_equivalent
from reward.verifier.lenient import extract_lenient
from reward.verifier.symbolic import load_algebra

FIGURES = ("triangle", "rectangle", "pentagon")
FRAMES = ["{}", " {} ", "{}.", "${}$", r"\boxed{{{}}}", "**{}**", r"$\boxed{{{}}}$", r"\text{{{}}}", "The answer is {}.", "Answer: {}"]
HOSTILE = [
    "\\boxed{",
    "{",
    "}",
    "<answer>",
    "</answer>",
    "the answer is ",
    "(A)",
    "1",
    ",",
    " or ",
    "not ",
    "=",
    "^",
    "\\frac",
    "$",
    "\ud800",
    "\0",
]
SMALL = st.integers(-99, 99)
VALUES = st.one_of(
    SMALL.map(str), st.tuples(SMALL, st.integers(1, 20)).map(lambda pair: f"{pair[0]}/{pair[1]}"), st.decimals(-9, 9, places=3).map(str)
)


@pytest.fixture(scope="module", autouse=True)
def algebra() -> None:
    """Load the algebra system before the first example, whose deadline would otherwise include the import."""
    load_algebra()


def _problem(gold: str, kind: AnswerKind, choices: tuple[str, ...] = ()) -> Problem:
    return Problem(id="p1", question="?", images=(), answer=gold, kind=kind, choices=choices)


@given(VALUES, VALUES)
def test_equality_of_numbers_is_symmetric(a: str, b: str) -> None:
    assert is_equivalent(a, _problem(b, AnswerKind.NUMBER)) == is_equivalent(b, _problem(a, AnswerKind.NUMBER))


@given(st.lists(SMALL, min_size=2, max_size=4), st.permutations(range(4)))
def test_order_counts_in_tuples_and_not_in_sets(items: list[int], order: list[int]) -> None:
    shuffled = [items[place] for place in order if place < len(items)]
    inner, other = ", ".join(map(str, items)), ", ".join(map(str, shuffled))
    assert is_equivalent(f"({other})", _problem(f"({inner})", AnswerKind.LATEX)) == (items == shuffled)
    assert is_equivalent(rf"\{{{other}\}}", _problem(rf"\{{{inner}\}}", AnswerKind.LATEX))


@given(VALUES, st.sampled_from(FRAMES), SMALL)
def test_the_frame_of_an_answer_does_not_matter(value: str, frame: str, other: int) -> None:
    problem = _problem(value, AnswerKind.NUMBER)
    for score in (score_answer, score_lenient):
        assert score(problem, frame.format(value)).value == 1.0
        assert score(problem, frame.format(other)).value == float(Fraction(value) == other)


@given(
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from(["{0}", "({0})", "{0}.", "{0}) {1}", "({0}) {1}", "Option {0}", "{1}", "The {1}.", "{0}: {1}"]),
)
def test_a_choice_is_right_however_it_is_named(gold: int, given_place: int, frame: str) -> None:
    problem = _problem(FIGURES[gold], AnswerKind.CHOICE, FIGURES)
    answer = frame.format("ABC"[given_place], FIGURES[given_place])
    assert score_answer(problem, answer).value == score_lenient(problem, answer).value == float(gold == given_place)


@given(st.permutations(FIGURES), st.sampled_from([", ", " or ", "\n", " ", "/", ". "]))
def test_a_list_of_all_options_is_never_right(texts: list[str], glue: str) -> None:
    for gold in FIGURES:
        problem = _problem(gold, AnswerKind.CHOICE, FIGURES)
        assert score_lenient(problem, glue.join(texts)).value == 0.0
        assert score_lenient(problem, glue.join(f"({letter}) {text}" for letter, text in zip("ABC", texts, strict=True))).value == 0.0


@given(st.lists(st.sampled_from(HOSTILE), max_size=30))
def test_any_mixture_gives_an_answer_or_a_reason(parts: list[str]) -> None:
    for kind in (AnswerKind.NUMBER, AnswerKind.TEXT, AnswerKind.LATEX, AnswerKind.LIST):
        found = extract_lenient("".join(parts), _problem("7", kind))
        assert (found.answer is None) == bool(found.reason)


@given(st.integers(-(10**12), 10**12), st.integers(0, 4), st.sampled_from(["{}", " {} ", "{}.", "{} apples", "${}"]))
def test_the_way_a_number_is_written_does_not_matter(value: int, num_zeros: int, frame: str) -> None:
    written = frame.format(f"{value:,}" + ("." + "0" * num_zeros if num_zeros else ""))
    assert is_equivalent(written, _problem(str(value), AnswerKind.NUMBER))
    assert not is_equivalent(written, _problem(str(value + 1), AnswerKind.NUMBER))


@given(st.integers(-999, 999), st.integers(1, 999), st.integers(-999, 999), st.integers(1, 999))
def test_fractions_are_compared_as_python_compares_them(a: int, b: int, c: int, d: int) -> None:
    assert is_equivalent(f"{a}/{b}", _problem(f"{c}/{d}", AnswerKind.NUMBER)) == (Fraction(a, b) == Fraction(c, d))


@given(st.text(), st.sampled_from([("7", AnswerKind.NUMBER), ("yes", AnswerKind.YESNO), ("red", AnswerKind.TEXT)]))
def test_any_text_is_judged_without_an_error(answer: str, gold: tuple[str, AnswerKind]) -> None:
    assert is_equivalent(answer, _problem(*gold)) in (True, False)
    assert is_equivalent(answer, _problem("rectangle", AnswerKind.CHOICE, FIGURES)) in (True, False)


@given(st.text(alphabet="0123456789,./%$-+ ea()\ud800\0\u200b", max_size=30))
def test_what_is_read_as_seven_has_a_seven_in_it(answer: str) -> None:
    right = is_equivalent(answer, _problem("7", AnswerKind.NUMBER))
    assert not right or "7" in answer or "/" in answer
