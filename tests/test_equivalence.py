"""Which answers mean the gold one, kind by kind. Each case gives its reason."""

import json
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovt_ray.errors import DataError
from ovt_ray.types import AnswerKind, Outcome, Problem
from reward.accuracy import score_accuracy
from reward.equivalence import is_equivalent

FIGURES = ("triangle", "rectangle", "pentagon")
TEXT_WITH_FORMAT = "<think> a </think> <answer> {} </answer>"

NUMBERS = [
    ("84", "84", True, "itself"),
    ("84", "84.00", True, "trailing zeros do not change a value"),
    ("84", "084", True, "nor do leading ones"),
    ("84", "84.", True, "a full stop ends the sentence"),
    ("84", "84.000000000000000001", False, "values are compared exactly"),
    ("9007199254740993", "9007199254740992", False, "also where floats cannot tell them apart"),
    ("0.1", ".1", True, "no digit is needed before the point"),
    ("0.5", "1/2", True, "a fraction is its value"),
    ("2/4", "1/2", True, "reduced or not"),
    ("1/3", "0.33", False, "a rounded fraction is another number"),
    ("1/3", "1 / 3", True, "blanks around the bar"),
    ("5", "5/0", False, "division by zero is no number"),
    ("1,522.81", "1522.81", True, "thousands separators mean nothing"),
    ("1522", "1,522", True, "on either side"),
    ("12", "1,2", False, "a comma elsewhere is no thousands separator"),
    ("1234", "12,34", False, "groups have three digits"),
    ("3.30", "$3.30", True, "a currency sign is a unit"),
    ("3.30", r"\$3.3", True, "also escaped, as models write it"),
    ("9", "9 $", True, "also after the number"),
    ("-5", "-$5", True, "a sign before the currency"),
    ("-5", "$-5", True, "or after it"),
    ("-5", "−5", True, "typographic minus"),
    ("5", "-5", False, "the sign counts"),
    ("5", "+5", True, "plus changes nothing"),
    ("40", "40%", True, "percent is a unit where the question asks for it"),
    ("40", r"40\%", True, "also escaped"),
    ("40%", "40 percent", True, "sign or word"),
    ("0.4", "40%", True, "and the hundredth part where a share is asked for"),
    ("0.4", "0.4%", False, "a share is not its hundredth part"),
    ("100%", "1%", False, "two percentages are compared as they are"),
    ("5", "5 apples", True, "a unit is no part of a number"),
    ("3", "3 minutes per day", True, "units of several words"),
    ("9", "$9 per day", True, "currency and unit"),
    ("8", "8 lemon-flavored candies", True, "hyphens in units"),
    ("5", "5 million", False, "a word that scales the number is no unit"),
    ("5", "5 dozen", False, "nor is a dozen"),
    ("5", "5 cents", False, "cents are not dollars"),
    ("5", "5 and a half", False, "a word that goes on with the number is no unit"),
    ("5", "5 or six", False, "two answers are no answer"),
    ("5", "5 or 6", False, "nor in digits"),
    ("5", "5, 6", False, "nor as a list"),
    ("5", "5 7", False, "nor side by side"),
    ("5", "5e3", False, "an exponent is not a unit"),
    ("5", "5*1", False, "nothing is evaluated"),
    ("5", "x = 5", False, "nor solved"),
    ("5", "about 5", False, "hedged"),
    ("5", "five", False, "words are not read as numbers"),
    ("5", "５", False, "other scripts' digits are not read"),
    ("52", "5²", False, "a superscript is not a digit"),
    ("1", "9" * 100_000, False, "an endless number is wrong, not an error"),
    ("5", "5 " + "very " * 10 + "big apples", False, "a sentence is no unit"),
]

YES_OR_NO = [
    ("yes", "Yes", True, "case"),
    ("yes", "true.", True, "synonym and full stop"),
    ("no", "False", True, "synonym"),
    ("no", "yes", False, "the other one"),
    ("yes", "yes and no", False, "both"),
    ("yes", "no, yes", False, "both, the right one last"),
    ("yes", "", False, "nothing"),
]

TEXTS = [
    ("Spanish club", "the spanish  club.", True, "case, article, white space and punctuation mean nothing"),
    ("red", '"Red"', True, "quotes"),
    ("men's vault event", "men’s vault event", True, "a curly apostrophe is an apostrophe"),
    ("café", "cafe\u0301", True, "composed or decomposed"),
    ("a", "the", False, "an article alone is a word"),
    ("Vitamin A", "vitamin", False, "only a leading article goes"),
    ("-5", "5", False, "a sign is not punctuation"),
    (".5", "5", False, "nor is a leading point"),
    ("C++", "C", False, "nor are symbols"),
    ("red", "red or blue", False, "more than the answer"),
    ("red", "re d", False, "white space inside a word"),
]

CHOICES = [
    (FIGURES, "rectangle", "B", True, "its letter"),
    (FIGURES, "rectangle", "b", True, "in either case"),
    (FIGURES, "rectangle", "(B)", True, "in brackets"),
    (FIGURES, "rectangle", "B.", True, "with a full stop"),
    (FIGURES, "rectangle", "**B**", True, "in bold"),
    (FIGURES, "rectangle", "Rectangle.", True, "its text"),
    (FIGURES, "rectangle", "a rectangle", True, "with an article"),
    (FIGURES, "rectangle", "(B) rectangle", True, "letter and text"),
    (FIGURES, "rectangle", "B: a rectangle", True, "in other punctuation"),
    (FIGURES, "rectangle", "B)rectangle", True, "without a blank"),
    (FIGURES, "rectangle", "(A) rectangle", False, "letter contradicts text"),
    (FIGURES, "rectangle", "(B) triangle", False, "text contradicts letter"),
    (FIGURES, "rectangle", "A rectangle", False, "a capital A is a letter, which contradicts the text"),
    (FIGURES, "rectangle", "B or C", False, "two letters"),
    (FIGURES, "rectangle", "A, B, C", False, "all letters"),
    (FIGURES, "rectangle", "triangle rectangle pentagon", False, "all texts"),
    (FIGURES, "rectangle", "A", False, "another letter"),
    (FIGURES, "rectangle", "Z", False, "a letter that is not shown"),
    (FIGURES, "rectangle", "pentagon", False, "another text"),
    (FIGURES, "rectangle", "", False, "nothing"),
    (("48", "49", "50"), "49", "(B) 49", True, "options that are numbers"),
    (("48", "49", "50"), "49", "49.", True, "by their text"),
    (("48", "49", "50"), "49", "A 49", False, "a contradiction without punctuation"),
    (("0.5", "5", ".5"), "5", ".5", False, "options that differ in a point"),
    (("5'", '5"'), "5'", '5"', False, "options that differ in a mark"),
    (("B", "C", "A"), "C", "C", True, "options that are letters, named by their text"),
    (("B", "C", "A"), "C", "(B)", True, "or by their place in brackets"),
    (("B", "C", "A"), "C", "(C)", False, "a bracketed letter is a place"),
    (("1 hour", "1 minute"), "1 hour", "1 minute", False, "units count among options"),
    (("2:10 P.M.", "2:50 P.M."), "2:10 P.M.", "2:10 p.m.", True, "times as written"),
]


def _problem(gold: str, kind: AnswerKind, choices: tuple[str, ...] = ()) -> Problem:
    return Problem(id="p1", question="?", images=(), answer=gold, kind=kind, choices=choices)


@pytest.mark.parametrize(("gold", "answer", "expected", "why"), NUMBERS)
def test_numbers_are_equal_by_value(gold: str, answer: str, expected: bool, why: str) -> None:
    assert is_equivalent(answer, _problem(gold, AnswerKind.NUMBER)) is expected, why


@pytest.mark.parametrize(("gold", "answer", "expected", "why"), YES_OR_NO)
def test_yes_and_no_have_one_synonym_each(gold: str, answer: str, expected: bool, why: str) -> None:
    assert is_equivalent(answer, _problem(gold, AnswerKind.YESNO)) is expected, why


@pytest.mark.parametrize(("gold", "answer", "expected", "why"), TEXTS)
def test_texts_are_equal_up_to_writing(gold: str, answer: str, expected: bool, why: str) -> None:
    assert is_equivalent(answer, _problem(gold, AnswerKind.TEXT)) is expected, why


@pytest.mark.parametrize(("choices", "gold", "answer", "expected", "why"), CHOICES)
def test_a_choice_is_named_by_letter_or_text(choices: tuple[str, ...], gold: str, answer: str, expected: bool, why: str) -> None:
    assert is_equivalent(answer, _problem(gold, AnswerKind.CHOICE, choices)) is expected, why


@pytest.mark.parametrize(("gold", "kind"), [("many", AnswerKind.NUMBER), ("maybe", AnswerKind.YESNO), (" ", AnswerKind.TEXT)])
def test_an_unreadable_gold_answer_is_unscorable_and_named(gold: str, kind: AnswerKind) -> None:
    with pytest.raises(DataError, match="problem p1: its gold answer"):
        is_equivalent("5", _problem(gold, kind))
    score = score_accuracy(_problem(gold, kind), TEXT_WITH_FORMAT.format("5"))
    assert score.outcome is Outcome.UNSCORABLE
    assert "problem p1" in score.reason


@pytest.mark.parametrize(
    ("text", "value", "outcome", "extracted"),
    [
        (TEXT_WITH_FORMAT.format("6"), 1.0, Outcome.CORRECT, "6"),
        (TEXT_WITH_FORMAT.format("7"), 0.0, Outcome.WRONG, "7"),
        ("<think> a </think> 6", 0.0, Outcome.UNPARSEABLE, None),
    ],
)
def test_accuracy_tells_right_wrong_and_unreadable_apart(text: str, value: float, outcome: Outcome, extracted: str | None) -> None:
    score = score_accuracy(_problem("6", AnswerKind.NUMBER), text)
    assert (score.value, score.outcome, score.extracted) == (value, outcome, extracted)
    assert bool(score.reason) == (outcome is not Outcome.CORRECT)


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


@pytest.mark.parametrize("unit", ["1", "1,", "a ", "(", "1/", "e\u0301\u0316", "<answer>"])
@pytest.mark.parametrize("kind", list(AnswerKind))
def test_a_megabyte_answer_is_wrong_at_once(unit: str, kind: AnswerKind) -> None:
    gold = {AnswerKind.NUMBER: "7", AnswerKind.YESNO: "yes"}.get(kind, "red")
    answer = unit * 1_000_000
    start = time.monotonic()
    assert not is_equivalent(answer, _problem(gold, kind, ("red", "blue") if kind is AnswerKind.CHOICE else ()))
    assert time.monotonic() - start < 0.1


def test_each_real_gold_answer_with_its_unit_is_right(shared: Path) -> None:
    rows = json.loads((shared / "tabmwp/data/tabmwp/problems_dev1k.json").read_text())
    for row in rows.values():
        choices = tuple(row["choices"] or ())
        problem = _problem(row["answer"], AnswerKind.CHOICE if choices else AnswerKind.NUMBER, choices)
        written = {row["answer"], f"{row['answer']} {row['unit'] or ''}" if row["unit"] != "$" else f"${row['answer']}"}
        written -= {text for text in written if "$," in text}
        assert all(is_equivalent(text, problem) for text in written), (written, row)
        assert not any(is_equivalent(choice, problem) for choice in choices if choice != row["answer"]), row
