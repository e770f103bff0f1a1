"""Each filter of single chains by values worked by hand, and on text that is meant to break it."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from ovt_ray.core.config.traces import REFLECTIONS, TraceFilters
from ovt_ray.core.types import AnswerKind, Problem
from ovt_ray.distillation.contamination import EvaluationSet
from ovt_ray.distillation.filters import Candidate, Context, cut_reflection, explain, foreign_share, repeated_share
from ovt_ray.distillation.texts import SimilarTexts, grams, similarity, words


def answer(thought: str, final: str = "4") -> str:
    return f"<think> {thought} </think> <answer> {final} </answer>"


def reason(response: str, question: str = "How many?", **rules: Any) -> tuple[str, str] | None:
    problem = Problem(id="p", question=question, images=(), answer="4", kind=AnswerKind.NUMBER)
    context = Context(rules=TraceFilters.model_validate(rules), evaluation=EvaluationSet([]))
    return explain(Candidate(problem=problem, index=0, response=response), context)


def test_thinking_is_cut_at_the_first_reflection_and_the_answer_kept() -> None:
    assert cut_reflection(answer("2 + 2 = 4 . Wait, is it 5 ? But wait, no ."), REFLECTIONS) == answer("2 + 2 = 4 .")
    assert cut_reflection(answer("4 . But wait, no ."), REFLECTIONS) == answer("4 .")


def test_a_word_that_only_contains_a_reflection_is_left_alone() -> None:
    assert cut_reflection(answer("the Waiter and the waiting room"), REFLECTIONS) == answer("the Waiter and the waiting room")


def test_text_without_closed_thinking_is_left_alone() -> None:
    assert cut_reflection("<think> Wait, what", REFLECTIONS) == "<think> Wait, what"


def test_reflections_are_what_the_options_say() -> None:
    assert cut_reflection(answer("4 . (hm) 5 . Wait, 4"), ["(hm)"]) == answer("4 .")
    assert reason(answer("4 . Wait, 5"), reflection="drop") == ("reflection", "it doubts itself: 'Wait'")
    assert reason(answer("4 . Hm, 5"), reflection="drop") is None
    assert reason(answer("4 . Wait, 5"), reflection="keep") is None


@pytest.mark.parametrize(
    ("response", "why"),
    [
        ("4", "<think> stands there 0 times, not once"),
        ("<think> <think> a </think> <answer> 4 </answer>", "<think> stands there 2 times, not once"),
        (answer("a") + " <answer> 4 </answer>", "<answer> stands there 2 times, not once"),
        ("<think> a <answer> 4 </answer> </think>", "the tags are not in the order <think> </think> <answer> </answer>"),
        ("So: " + answer("a"), "there is text before <think> or after </answer>"),
        (answer("a") + " Done.", "there is text before <think> or after </answer>"),
        (answer("\x0crac{1}{2}"), "it holds U+000C, which is no text"),
        (answer("\ud800"), "it holds U+D800, which is no text"),
    ],
)
def test_what_breaks_the_format_is_dropped_with_the_reason(response: str, why: str) -> None:
    assert reason(response) == ("format", why)


def test_white_space_around_and_words_between_the_parts_keep_the_format() -> None:
    assert reason(" \n<think>a\tb</think>\nSo it is four.\n<answer>4</answer>\n") is None


def test_an_empty_thought_is_dropped() -> None:
    assert reason("<think>  \n</think> <answer> 4 </answer>", reflection="keep") == ("thought", "nothing stands in its thinking")


def test_words_are_counted_with_the_tags_as_white_space_separates_them() -> None:
    six = "<think> one two </think> <answer>4</answer>"
    assert len(six.split()) == 5
    assert reason(six, max_words=5) is None
    assert reason(six, max_words=4) == ("words", "5 words, more than 4")
    assert reason(answer("w " * 2000), max_words=None, max_repetition=None) is None


def test_the_share_of_repeated_runs_of_four_words() -> None:
    counting = " ".join(f"w{number}" for number in range(23))  # 20 runs, all different
    assert repeated_share(counting) == 0
    assert repeated_share(f"{counting} {counting}") == pytest.approx(20 / 43)  # 46 words, 43 runs, 20 of them twice
    assert repeated_share("ab " * 43) == pytest.approx(39 / 40)
    assert repeated_share("ab " * 22) == 0  # 19 runs
    assert repeated_share("3" * 16 * 23) == pytest.approx(19 / 20)  # digits without end are words of 16


def test_a_chain_that_goes_round_in_circles_is_dropped() -> None:
    name, why = reason(answer("x y z . " * 20)) or ("", "")
    # "< think >" of 3 words, 80, and "< / think > < answer > 4 < / answer >" of 12
    assert len(words(answer("x y z . " * 20))) == 95
    assert name == "repetition" and "of its runs of 4 words stood there before, more than 50%" in why


def test_letters_in_a_script_that_the_problem_does_not_use() -> None:
    assert foreign_share("abc 中文", "a question") == (pytest.approx(2 / 5), "cjk")
    assert foreign_share("abc 中文 かな", "漢字") == (0.0, "")
    assert foreign_share("абв a", "a question") == (pytest.approx(3 / 4), "cyrillic")
    assert foreign_share("αβ ∠ √ ℝ 𝑥 ½ é ｘ", "a question") == (0.0, "")
    assert foreign_share("，。 12", "a question") == (0.0, "")
    assert foreign_share("a ﬁgure, a ﬂow, aﬃne, ﬅ, ﬆ", "a question") == (0.0, ""), "ligatures are Latin"


def test_a_chain_that_slips_into_another_language_is_dropped() -> None:
    assert reason(answer("所以 4")) == (
        "language",
        "8.3% of its letters, most of them cjk, are in no script of the problem, more than 1.0%",
    )
    assert reason(answer("所以 4"), question="多少?") is None
    assert reason(answer("所以 4"), max_foreign=None) is None


@pytest.mark.parametrize(
    "hostile",
    [
        lambda: "<think>" * 60_000,
        lambda: answer("Wait" * 100_000),
        lambda: answer("a" * 400_000),
        lambda: answer("But " * 80_000),
        lambda: answer("̖́̈" * 100_000),  # combining marks out of order: quadratic for a normalisation
        lambda: answer("中" * 200_000),
        lambda: answer("((((" * 100_000) + "\x00",
    ],
)
def test_hostile_text_takes_linear_time(hostile: Callable[[], str]) -> None:
    text, began = hostile(), time.process_time()
    cut_reflection(text, REFLECTIONS)
    reason(text)
    reason(text, format=False, max_words=None)
    grams(text)
    assert time.process_time() - began < 3


def test_texts_are_compared_by_their_runs_of_three_words() -> None:
    first, second = grams("a b c d e"), grams("A b c d, f")
    assert len(first) == 3 and len(second) == 4  # abc bcd cde; abc bcd "cd," "d,f"
    assert similarity(first, second) == pytest.approx(2 / 5)
    assert similarity(grams("a b"), grams("a  B")) == 1 and similarity(grams(""), grams("")) == 0


def test_no_similar_text_is_missed_and_no_other_found() -> None:
    texts = [" ".join(str((number * step) % 7) for number in range(20 + step % 3)) for step in range(40)]
    sets = [grams(text) for text in texts]
    for bound in (0.3, 0.7, 0.9, 1.0):
        index = SimilarTexts(sets, bound)
        for place, one in enumerate(sets):
            expected = [(other, similarity(one, sets[other])) for other in range(place) if similarity(one, sets[other]) >= bound]
            assert index.similar(one) == expected
            index.add(one)
