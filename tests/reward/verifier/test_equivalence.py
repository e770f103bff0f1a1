"""Which answers mean the gold one, kind by kind. Each case gives its reason."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import AnswerKind, Outcome, Problem
from reward.accuracy import score_accuracy
from reward.verifier.equivalence import is_equivalent

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
    ("1/3", "0.33", False, "a fraction rounded to two digits is another number"),
    ("1/3", "0.333", True, "to three digits it is what TabMWP compares"),
    ("1/3", "0.334", False, "if it is rounded correctly"),
    ("2/5", "0.401", False, "also where the fraction has a short decimal"),
    ("0.333", "1/3", True, "in either direction"),
    ("3/2", "1 1/2", True, "a mixed number"),
    ("3/2", r"1\frac{1}{2}", True, "in LaTeX"),
    ("11/2", "1 1/2", False, "is not its digits without the blank"),
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
    ("5", "5 M", False, "nor is its letter"),
    ("5", "5 K", False, "nor a thousand's"),
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
    ("5", "2x = 5", False, "nor solved"),
    ("5", "x = 5", True, "a name in front of a value says nothing"),
    ("5", "x=5=y", False, "but only one"),
    ("5", "x > 5", False, "and no bound"),
    ("45", r"m\angle ABC = 45^\circ", True, "names may be of several letters"),
    ("5", "2 + 3 = 5", True, "what it was computed from neither"),
    ("5", "about 5", True, "hedged, the value is still given"),
    ("5", "more than 5", False, "which a bound is not"),
    ("1200", "1.2e3", True, "scientific notation"),
    ("1200", r"1.2 \times 10^3", True, "in LaTeX"),
    ("0.0012", "1.2 × 10^{-3}", True, "with a negative exponent"),
    ("1200", "1.2 x 10^4", False, "the exponent counts"),
    ("2000000", "2 million", True, "a word that scales the number is read"),
    ("10000", r"10\,000", True, "thin blanks between thousands"),
    ("10000", "10{,}000", True, "commas in braces"),
    ("25", "5^2", True, "a power is computed where LaTeX is written"),
    ("5", r"\sqrt{25}", True, "and a root"),
    ("5", r"\sqrt{26}", False, "exactly"),
    ("69", "69{degrees}", True, "degrees in braces"),
    ("60", r"60^{\circ}", True, "and as LaTeX"),
    ("32", "32 cm²", True, "square units"),
    ("5", "5 m/s^2", True, "units with a power"),
    ("5", "5 dogs 3 cats", False, "a second number is no unit"),
    ("5", "5 cm (3 m)", False, "nor in brackets"),
    ("5", "3 = 5", False, "two numbers are no sum"),
    ("5", "5x", False, "a variable is no unit"),
    ("5", "5 x", False, "nor apart"),
    ("5", r"$\boxed{5}$", True, "a box in dollar signs"),
    ("1/2", "\x0crac{1}{2}", True, "a command whose backslash was lost"),
    ("1/2", "½", True, "a fraction of one character"),
    ("5", "\u200b5\u202e", True, "invisible characters"),
    ("8", "8 out of 10", False, "a share is not its count"),
    ("6", "6th", False, "an ordinal is no count"),
    ("5", "negative 5", False, "a sign may be a word"),
    ("-5", "negative five", True, "so may a number"),
    ("25", "twenty-five", True, "of two words"),
    ("3/2", "one and a half", True, "or a mixed one"),
    ("5", "fifty", False, "as a whole"),
    ("5", "５", True, "full-width digits are digits"),
    ("5", "٥", False, "other scripts' digits are not read"),
    ("1234", "1\u202f234", True, "a narrow blank between thousands"),
    ("5", "5!", False, "a factorial is not its number"),
    ("120", "5!", True, "but computed"),
    ("1987", "1987 BC", False, "nor is an era left out"),
    ("52", "5²", False, "a superscript is not a digit"),
    ("1", "9" * 100_000, False, "an endless number is wrong, not an error"),
    ("5", "5 " + "very " * 10 + "big apples", False, "a sentence is no unit"),
]

PRECISIONS = [
    ("1.2", 1, "1.23", True, "more digits are rounded to the precision"),
    ("1.2", 1, "1.26", False, "and may round to another value"),
    ("1.2", 1, "1.20", True, "trailing zeros"),
    ("1.2", 1, "1", False, "fewer digits must be exact"),
    ("0.0", 1, "0", True, "as these are"),
    ("2.4", 1, "2.45", True, "half to even"),
    ("2.5", 1, "2.45", True, "or away from zero"),
    ("0.33", 2, "1/3", True, "a fraction is rounded too"),
    ("5.77", 2, r"\frac{10}{\sqrt{3}}", True, "and a root"),
    ("5.77", 2, "5.8", False, "rounded too far"),
    ("-4.3", 1, "-4.27", True, "below zero"),
    ("-4.3", 1, "4.27", False, "the sign counts"),
]

UNITS = [
    ("11", "years", "11 years", True, "the problem's unit"),
    ("11", "years", "11 years old", True, "in other words"),
    ("11", "years", "132 months", True, "converted"),
    ("11", "years", "11 months", False, "not converted"),
    ("1000", "g", "1 kg", True, "another scale"),
    ("1000", "g", "1000 kg", False, "another scale, same number"),
    ("1000", "g", "1000g", True, "without a blank"),
    ("5", "cm", "5 cm^2", False, "an area is no length"),
    ("0.55", "$", "55 cents", True, "cents are dollars"),
    ("0.55", "$", "€0.55", False, "euros are not"),
    ("3", "minutes per day", "3 minutes per hour", False, "a rate is per something"),
    ("60", "km/h", "60 kilometers per hour", True, "in words"),
    ("60", "km/h", "1 km/min", True, "converted"),
    ("60", "km/h", "60 km/s", False, "a second is no hour"),
    ("4", "tickets per month", "4 months per ticket", False, "the other way round"),
    ("5", "cm", "5 in", False, "an inch is no centimetre"),
    ("4", "years", "4 decades", False, "nor a decade a year"),
    ("7", "$", "7¢", False, "nor a cent a dollar"),
    ("5", "million", "5 million", True, "the unit may be the scale"),
    ("5", "million", "5,000,000", True, "or be written out"),
]

YES_OR_NO = [
    ("yes", "Yes", True, "case"),
    ("yes", "true.", True, "synonym and full stop"),
    ("no", "False", True, "synonym"),
    ("no", "yes", False, "the other one"),
    ("yes", "yes and no", False, "both"),
    ("yes", "no, yes", False, "both, the right one last"),
    ("yes", "", False, "nothing"),
    ("yes", "Yes, there is no gap.", True, "a sentence says what it begins with"),
    ("no", "Yes, there is no gap.", False, "not what is in it"),
    ("yes", "Yes. So the answer is no", False, "unless it ends otherwise"),
    ("1", "Yes.", True, "gold answers of HallusionBench"),
    ("0", "Yes.", False, "are 1 and 0"),
    ("yes", "the lines are the same", False, "nothing is concluded"),
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
    ("Seattle-Bremerton", "seattle bremerton", True, "hyphens between words"),
    ("U.S.", "US", True, "points in abbreviations"),
    ("4:30 P.M.", "4:30 pm", True, "times of day"),
    ("4:30 P.M.", "16:30", True, "in 24 hours"),
    ("4:30 P.M.", "4:30 a.m.", False, "the half of the day counts"),
    ("4:30 P.M.", "4:30", False, "and must be said if gold says it"),
    ("1 hour and 15 minutes", "1 hour 15 minutes", True, "durations"),
    ("1 hour and 15 minutes", "75 min", True, "in other units"),
    ("1 hour and 15 minutes", "1 hour", False, "of other lengths"),
    ("04/02/2005", "April 2, 2005", True, "dates"),
    ("04/02/2005", "04/03/2005", False, "another day"),
    ("3.5", "3.50", True, "a text that is a number"),
    ("3:4", "3 : 4", True, "blanks around signs"),
    ("3:4", "3:5", False, "other numbers"),
    ("Yes", "Yes, it is.", True, "a text that is yes or no"),
    ("Tampa", "Tampa, Florida", False, "more than was asked"),
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
    (FIGURES, "rectangle", "A rectangle", True, "an article at the beginning of a sentence"),
    (FIGURES, "rectangle", "C rectangle", False, "a letter which contradicts the text"),
    (FIGURES, "rectangle", "E. rectangle", False, "there is no such letter"),
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
    (("2:10 P.M.", "2:50 P.M."), "2:10 P.M.", "14:10", True, "and otherwise"),
    (FIGURES, "rectangle", r"\text{(B)} rectangle", True, "the letter in LaTeX"),
    (FIGURES, "rectangle", "Option B", True, "introduced"),
    (FIGURES, "rectangle", "The answer is B.", True, "at length"),
    (FIGURES, "rectangle", "rectangle (B)", True, "text before letter"),
    (FIGURES, "rectangle", "rectangle (A)", False, "contradicting"),
    (("35°", "45°"), "45°", "45", True, "an option without its unit"),
    (("35°", "45°"), "45°", "45 degrees", True, "or with another spelling of it"),
    (("3mm", "3cm"), "3mm", "3", False, "if that is one option"),
    (("3mm", "4mm"), "3mm", "0.3 cm", True, "converted"),
    (("larger than", "equal to"), "larger than", "larger", True, "the beginning of an option"),
    (("larger than", "larger than or equal to"), "larger than", "larger", False, "of one only"),
    (("Hawk", "Hawk and snake"), "Hawk and snake", "hawk", False, "another option"),
    (("linear", "nonlinear"), "nonlinear", "linear", False, "a part of a word is no option"),
    ((r"$\frac{3}{4}$", "$2$"), r"$\frac{3}{4}$", "0.75", True, "mathematics by value"),
    ((r"$2\sqrt{3}$", r"$3\sqrt{2}$"), r"$2\sqrt{3}$", r"\sqrt{12}", True, "also symbolic"),
    ((r"$2\sqrt{3}$", r"$3\sqrt{2}$"), r"$2\sqrt{3}$", r"\sqrt{18}", False, "another option's value"),
    (("9", "12", "18", "18"), "18", "D", True, "options that are the same"),
    (("Yes", "No"), "No", "No, it is not.", True, "options that are yes and no"),
    (("(c)", "(a)", "(b)"), "(b)", "(b)", True, "options that are bracketed letters"),
    (("3:1", "1:3"), "3:1", "3 : 1", True, "ratios"),
    (("9:05 A.M.", "1:25 P.M."), "9:05 A.M.", "9:05", True, "a time of which there is one option"),
    (("9:05 A.M.", "9:05 P.M."), "9:05 A.M.", "9:05", False, "or two"),
    (("$c$", "$a$"), "$c$", "A", True, "a capital is the letter of an option, not a variable"),
    (("5", "It cannot be determined"), "It cannot be determined", "cannot be determined", True, "without its pronoun"),
    (("3:1", "1:3"), "3:1", "1:3", False, "are ordered"),
]


def _problem(gold: str, kind: AnswerKind, choices: tuple[str, ...] = ()) -> Problem:
    return Problem(id="p1", question="?", images=(), answer=gold, kind=kind, choices=choices)


@pytest.mark.parametrize(("gold", "answer", "expected", "why"), NUMBERS)
def test_numbers_are_equal_by_value(gold: str, answer: str, expected: bool, why: str) -> None:
    assert is_equivalent(answer, _problem(gold, AnswerKind.NUMBER)) is expected, why


@pytest.mark.parametrize(("gold", "precision", "answer", "expected", "why"), PRECISIONS)
def test_a_precision_rounds_the_answer_only(gold: str, precision: int, answer: str, expected: bool, why: str) -> None:
    problem = replace(_problem(gold, AnswerKind.NUMBER), precision=precision)
    assert is_equivalent(answer, problem) is expected, why


@pytest.mark.parametrize(("gold", "unit", "answer", "expected", "why"), UNITS)
def test_units_are_converted_or_contradict(gold: str, unit: str, answer: str, expected: bool, why: str) -> None:
    assert is_equivalent(answer, replace(_problem(gold, AnswerKind.NUMBER), unit=unit)) is expected, why


@pytest.mark.parametrize(("gold", "answer", "expected", "why"), YES_OR_NO)
def test_yes_and_no_have_one_synonym_each(gold: str, answer: str, expected: bool, why: str) -> None:
    assert is_equivalent(answer, _problem(gold, AnswerKind.YESNO)) is expected, why


@pytest.mark.parametrize(("gold", "answer", "expected", "why"), TEXTS)
def test_texts_are_equal_up_to_writing(gold: str, answer: str, expected: bool, why: str) -> None:
    assert is_equivalent(answer, _problem(gold, AnswerKind.TEXT)) is expected, why


@pytest.mark.parametrize(("choices", "gold", "answer", "expected", "why"), CHOICES)
def test_a_choice_is_named_by_letter_or_text(choices: tuple[str, ...], gold: str, answer: str, expected: bool, why: str) -> None:
    assert is_equivalent(answer, _problem(gold, AnswerKind.CHOICE, choices)) is expected, why


@pytest.mark.parametrize(
    ("gold", "kind"), [("many", AnswerKind.NUMBER), ("maybe", AnswerKind.YESNO), (" ", AnswerKind.TEXT), (r"\frac{1}{", AnswerKind.LATEX)]
)
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
