"""Where other people's outputs say their answer, and which outputs say none or several."""

import time

import pytest

from ovt_ray.core.types import AnswerKind, Outcome, Problem
from reward.accuracy import score_answer, score_lenient
from reward.verifier.choices import gold_choice
from reward.verifier.kinds import infer_kind
from reward.verifier.lenient import extract_lenient

NUMBER = Problem(id="p1", question="?", images=(), answer="5", kind=AnswerKind.NUMBER)
METRES = Problem(id="p1", question="?", images=(), answer="5", kind=AnswerKind.NUMBER, unit="m")
TRUTH = Problem(id="p1", question="?", images=(), answer="no", kind=AnswerKind.YESNO)
TEXT = Problem(id="p1", question="?", images=(), answer="Tampa", kind=AnswerKind.TEXT)
LATEX = Problem(id="p1", question="?", images=(), answer=r"2\sqrt{3}", kind=AnswerKind.LATEX)
LIST = Problem(id="p1", question="?", images=(), answer="[2014, 2016]", kind=AnswerKind.LIST)
CHOICE = Problem(id="p1", question="?", images=(), answer="49", kind=AnswerKind.CHOICE, choices=("45", "49", "98"))
NAMES = Problem(id="p1", question="?", images=(), answer="Mr. Chan", kind=AnswerKind.CHOICE, choices=("Mr. Chan", "Ms. Boone"))
MARKET = Problem(id="p1", question="?", images=(), answer="surplus", kind=AnswerKind.CHOICE, choices=("shortage", "surplus"))
LETTERS = Problem(id="p1", question="?", images=(), answer="E", kind=AnswerKind.CHOICE, choices=tuple("ABCDE"))

RIGHT = [
    (NUMBER, "<think>6</think> <answer> 5 </answer>", "tags"),
    (NUMBER, "<answer>5</answer> I said 6 before.", "tags come before the last line"),
    (NUMBER, r"First \boxed{5}, so the answer is \boxed{5.0}.", "boxes that agree"),
    (NUMBER, r"so $x = \boxed{5}$.", "a box in a formula"),
    (NUMBER, r"\boxed{x = 5\text{ cm}}", "a name and a unit in the box"),
    (NUMBER, "The answer is 5 because 2 + 3 = 5.", "a reason after the answer"),
    (NUMBER, "2 + 2 = 4.\n**Final Answer:** 5", "markdown"),
    (NUMBER, "Final answer:\n\n5", "on the next line"),
    (NUMBER, "### Answer\n5", "under a heading"),
    (NUMBER, "Answer: the answer is 5 apples.", "an introduction twice"),
    (NUMBER, "We count 3 and 2.\nTherefore, there are 5 apples.", "the last sentence"),
    (NUMBER, "In 2019 the value is 5.", "what follows `is`"),
    (NUMBER, "So 8 - 3 = 5 objects are left.", "what the equals sign leads to"),
    (NUMBER, "The answer is 5, not 6.", "another one ruled out"),
    (NUMBER, "Answer: 5 (since 2 + 3 = 5)", "a reason in brackets"),
    (CHOICE, "B is the correct answer.", "a letter that is called correct"),
    (CHOICE, "Let us check each option:\nA. 45 - no\nB. 49 - yes\n\nSo the answer is B.", "`option:` introduces no answer"),
    (NAMES, "### Final Answer\n\nMr. Chan", "a point in a name ends no sentence"),
    (TRUTH, "Based on the picture, no, they differ.", "after what it is based on"),
    (TRUTH, "It has two sides. So, no, they differ.", "after so"),
    (NUMBER, "There are five apples.", "a number in a word"),
    (NUMBER, "The area under the curve is 5.", "`under` is about something else"),
    (TRUTH, "No, there is none. The answer is no.", "twice"),
    (METRES, "So the rope is 500 cm in total.", "a unit in a sentence"),
    (NUMBER, "3 + 2 = 5", "what follows the equals sign"),
    (CHOICE, "The answer is (B) 49.", "letter and text"),
    (CHOICE, "B. The angles add up to 180.", "a letter first"),
    (CHOICE, "The angle is 49 degrees, so the correct option is B.", "a letter last"),
    (CHOICE, r"\boxed{\text{(B) } 49}", "both in a box"),
    (CHOICE, "Adding up, the angle measures 49°.", "a number that is an option"),
    (MARKET, "There is a surplus.", "the only option that is mentioned"),
    (LETTERS, "It must be figure E", "a capital where options are letters"),
    (TRUTH, "No, the left one is larger.", "the first word"),
    (TRUTH, "Both lines are equal. So the answer is no.", "the last word"),
    (TEXT, "The answer is Tampa.", "a text after the phrase"),
    (LATEX, r"The answer is $2\sqrt3$.", "the only formula"),
    (LIST, "The years are [2014, 2016].", "the only list"),
    (LIST, r"\boxed{2014} and \boxed{2016}", "one box per item"),
]

NOT_RIGHT = [
    (NUMBER, "", Outcome.UNPARSEABLE, "nothing"),
    (NUMBER, "I cannot see the picture.", Outcome.UNPARSEABLE, "a refusal"),
    (NUMBER, "<think>5", Outcome.UNPARSEABLE, "only thinking"),
    (NUMBER, "<answer>5", Outcome.UNPARSEABLE, "a truncated tag"),
    (NUMBER, r"so \boxed{5", Outcome.UNPARSEABLE, "a truncated box"),
    (NUMBER, r"\boxed{6} or \boxed{5}", Outcome.UNPARSEABLE, "two boxes"),
    (NUMBER, "The answer is 6. Wait, the answer is 5.", Outcome.UNPARSEABLE, "two phrases"),
    (NUMBER, "5 and 6", Outcome.UNPARSEABLE, "two numbers"),
    (NUMBER, "There are 8 objects: 3 cubes and 5 spheres.", Outcome.UNPARSEABLE, "many numbers"),
    (NUMBER, "It is not 5.", Outcome.UNPARSEABLE, "denied"),
    (NUMBER, "There are more than 5.", Outcome.UNPARSEABLE, "a bound"),
    (NUMBER, "The answer is 6.", Outcome.WRONG, "another number"),
    (CHOICE, "A, B, C", Outcome.UNPARSEABLE, "every letter"),
    (CHOICE, "(A) 45 (B) 49 (C) 98", Outcome.UNPARSEABLE, "every option"),
    (CHOICE, "The answer is 45. The answer is 49. The answer is 98.", Outcome.UNPARSEABLE, "every option in turn"),
    (CHOICE, "The answer is (A) 49", Outcome.WRONG, "letter contradicts text"),
    (CHOICE, "A. 49", Outcome.WRONG, "also without brackets"),
    (CHOICE, "(E) 49", Outcome.WRONG, "a letter that no option has"),
    (NUMBER, "5, 5", Outcome.UNPARSEABLE, "a list of numbers"),
    (NUMBER, "5,0", Outcome.UNPARSEABLE, "a decimal comma, or a list"),
    (CHOICE, "less than 49°", Outcome.UNPARSEABLE, "a bound on an option"),
    (CHOICE, "4 9, 49", Outcome.UNPARSEABLE, "an option among other numbers"),
    (CHOICE, "I would choose (C), not (B).", Outcome.WRONG, "the right one ruled out"),
    (MARKET, "There is no surplus.", Outcome.UNPARSEABLE, "denied by an article"),
    (MARKET, "shortagesurplus " + "surplus " * 5, Outcome.UNPARSEABLE, "an option over and over"),
    (TRUTH, "no; no; yes", Outcome.UNPARSEABLE, "a list that turns round"),
    (TRUTH, "no | yes", Outcome.UNPARSEABLE, "both"),
    (NUMBER, "There are almost 5.", Outcome.UNPARSEABLE, "nearly"),
    (NUMBER, "It was before 5.", Outcome.UNPARSEABLE, "a bound in time"),
    (NUMBER, "There are 5 dozen eggs.", Outcome.WRONG, "a word that changes the value"),
    (NUMBER, "I count 5-6 of them.", Outcome.UNPARSEABLE, "a range"),
    (NUMBER, "|-5|", Outcome.UNPARSEABLE, "nothing is evaluated"),
    (NUMBER, "<answer>5 or 6</answer>", Outcome.WRONG, "what is marked as the answer is one"),
    (NUMBER, "The red one is to the left.", Outcome.UNPARSEABLE, "`one` for a thing"),
    (TRUTH, "No cube is hidden.", Outcome.UNPARSEABLE, "no that belongs to a noun"),
    (METRES, "So the rope is 5 cm in total.", Outcome.WRONG, "another unit in a sentence"),
    (MARKET, "shortage or surplus", Outcome.UNPARSEABLE, "both"),
    (MARKET, "There is not a surplus.", Outcome.UNPARSEABLE, "denied"),
    (LETTERS, "A or E", Outcome.UNPARSEABLE, "two letters"),
    (TRUTH, "Yes. Therefore, the answer is no.", Outcome.UNPARSEABLE, "begins and ends differently"),
    (TRUTH, "The two lines look alike.", Outcome.UNPARSEABLE, "no conclusion"),
    (TEXT, "The answer is Tampa or Miami.", Outcome.WRONG, "more than the answer"),
]


@pytest.mark.parametrize(("problem", "text", "why"), RIGHT)
def test_the_answer_is_found(problem: Problem, text: str, why: str) -> None:
    assert score_lenient(problem, text).outcome is Outcome.CORRECT, why


@pytest.mark.parametrize(("problem", "text", "outcome", "why"), NOT_RIGHT)
def test_several_denied_or_missing_answers_are_not_accepted(problem: Problem, text: str, outcome: Outcome, why: str) -> None:
    score = score_lenient(problem, text)
    assert (score.value, score.outcome) == (0.0, outcome), why
    assert score.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<answer>5", "truncated: the last <answer> is never closed"),
        (r"\boxed{5", "truncated: the last box is never closed"),
        (r"\boxed{6} or \boxed{5}", "several different answers in boxes: '6' and '5'"),
        ("<think>5", "no text, or nothing after the thinking"),
        ("hm", "no answer found in tags, boxes, phrases or at the end"),
    ],
)
def test_several_none_and_truncated_are_told_apart(text: str, reason: str) -> None:
    assert extract_lenient(text, NUMBER).reason == reason


@pytest.mark.parametrize("answer", ["5", "5.0", "The value is 5.", r"\boxed{5}", "x = 5", "<answer>5</answer>"])
def test_an_extracted_answer_may_be_a_phrase(answer: str) -> None:
    assert score_answer(NUMBER, answer).outcome is Outcome.CORRECT


@pytest.mark.parametrize(("answer", "outcome"), [("6", Outcome.WRONG), ("5 or 6", Outcome.WRONG), (" ", Outcome.UNPARSEABLE)])
def test_an_extracted_answer_may_be_wrong_or_empty(answer: str, outcome: Outcome) -> None:
    assert score_answer(NUMBER, answer).outcome is outcome


def test_a_gold_answer_that_cannot_be_read_is_unscorable() -> None:
    bad = Problem(id="p9", question="?", images=(), answer="many", kind=AnswerKind.NUMBER)
    assert score_lenient(bad, "5").outcome is Outcome.UNSCORABLE
    assert "problem p9: its gold answer 'many' is not a number" in score_answer(bad, "5").reason


@pytest.mark.parametrize(
    ("gold", "choices", "kind"),
    [
        ("B", ("a", "b"), AnswerKind.CHOICE),
        ("Yes", (), AnswerKind.YESNO),
        ("-1,204.50", (), AnswerKind.NUMBER),
        (r"\frac{1}{2}", (), AnswerKind.NUMBER),
        ("3 cm", (), AnswerKind.NUMBER),
        ("[2014, 2016]", (), AnswerKind.LIST),
        ("[0,1)", (), AnswerKind.LATEX),
        ("(1,2)", (), AnswerKind.LATEX),
        ("x=5", (), AnswerKind.LATEX),
        (r"2\sqrt{3}", (), AnswerKind.LATEX),
        ("12:40 P.M.", (), AnswerKind.TEXT),
        ("04/02/2005", (), AnswerKind.TEXT),
        ("Death Valley", (), AnswerKind.TEXT),
        ("A", (), AnswerKind.TEXT),
    ],
)
def test_the_kind_follows_from_the_gold_answer(gold: str, choices: tuple[str, ...], kind: AnswerKind) -> None:
    assert infer_kind(gold, choices) is kind


def test_a_row_s_gold_choice_may_be_a_letter_a_text_or_without_options() -> None:
    assert gold_choice("B", ("45°", "49°")) == ("49°", ("45°", "49°"))
    assert gold_choice("49°", ("45°", "49°")) == ("49°", ("45°", "49°"))
    assert gold_choice("(B)", ()) == ("B", ("A", "B", "C", "D", "E"))
    with pytest.raises(ValueError, match="gold: 'Z' is neither one of the choices"):
        gold_choice("Z", ("45°", "49°"))


@pytest.mark.parametrize("unit", ["\\boxed{", "{", "<answer>", "the answer is ", "(A) ", "1 ", "1,", "a = ", "no ", ". A", "\x0crac", "$"])
def test_a_megabyte_of_anything_is_read_in_linear_time(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    for problem in (NUMBER, CHOICE, TRUTH, LATEX, LIST):
        start = time.monotonic()
        assert score_lenient(problem, text).value == 0.0
        assert time.monotonic() - start < 0.5


@pytest.mark.parametrize("piece", ["<answer>{}</answer>", "\\boxed{{{}}}", "<answer>it is {}</answer>"])
def test_thousands_of_different_answers_are_several_and_cost_little(piece: str) -> None:
    text = "".join(piece.format(number) for number in range(15_000))
    for problem in (NUMBER, CHOICE, TRUTH, LATEX):
        start = time.monotonic()
        assert score_lenient(problem, text).outcome is Outcome.UNPARSEABLE
        assert time.monotonic() - start < 0.5


def test_a_different_answer_after_many_spellings_of_one_counts() -> None:
    spellings = "".join(f"<answer>5.{'0' * zeros}</answer>" for zeros in range(1, 30))
    assert score_lenient(NUMBER, f"{spellings}<answer>6</answer><answer>5</answer>").outcome is Outcome.UNPARSEABLE
