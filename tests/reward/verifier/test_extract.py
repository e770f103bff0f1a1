"""The one format accepted in training, and how texts that break it are told apart."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.verifier.extract import extract_answer

ANSWERS = [
    ("<think> 4 + 2 = 6 . </think> <answer> 6 </answer>", "6", "the format itself"),
    ("\n<think></think><answer>6</answer>\n", "6", "white space means nothing, thinking may be empty"),
    ("<think> a </think> so it is 6: <answer> 6 </answer>", "6", "prose may stand between"),
    ("<think> <answer> 5 </answer> no </think> <answer> 6 </answer>", "6", "an answer in the thinking does not count"),
    ("<think> a </think> <answer> 6 </answer> or <answer>6</answer>", "6", "the same answer twice is one answer"),
    ("<think> a </think> <answer> two words\nand a line </answer>", "two words\nand a line", "answers may have lines"),
    (r"<think> a </think> <answer> \boxed{6} </answer>", "6", "a box is unwrapped"),
    (r"<think> a </think> <answer> $\boxed{ 6 }$ </answer>", "6", "and its dollar signs"),
    (r"<think> a </think> <answer> \boxed{\frac{1}{2}} </answer>", r"\frac{1}{2}", "braces in the box are kept"),
    (r"<think> a </think> <answer> \boxed{5} {6} </answer>", r"\boxed{5} {6}", "a box that is not all of the answer stays"),
    ("<think> a </think> <answer> 5 <answer> 6 </answer>", "5 <answer> 6", "a tag left open is part of the answer, not skipped"),
]

REFUSALS = [
    ("", "does not begin with <think>"),
    ("<answer> 6 </answer>", "does not begin with <think>"),
    ("So: <think> a </think> <answer> 6 </answer>", "does not begin with <think>"),
    ("<think> a <answer> 6 </answer>", "<think> is never closed"),
    ("<think> a </think>", "no <answer> after </think>"),
    ("<think> <answer> 6 </answer> </think>", "no <answer> after </think>"),
    ("<think> a </think> 6 </answer>", "no <answer> after </think>"),
    ("<think> a </think> <answer> 6", "truncated: the last <answer> is never closed"),
    ("<think> a </think> <answer> 5 </answer> <answer> 6", "truncated: the last <answer> is never closed"),
    ("<think> a </think> <answer> 6 </answer> or 7", "goes on after </answer>"),
    ("<think> a </think> <answer> 5 </answer> <answer> 6 </answer>", "several different answers: '5' and '6'"),
    ("<think> a </think> <answer>  </answer>", "<answer> is empty"),
    (r"<think> a </think> <answer> \boxed{ } </answer>", "<answer> is empty"),
]


@pytest.mark.parametrize(("text", "answer", "why"), ANSWERS)
def test_answer_is_read_from_the_declared_format(text: str, answer: str, why: str) -> None:
    assert extract_answer(text).answer == answer, why


@pytest.mark.parametrize(("text", "reason"), REFUSALS)
def test_each_broken_format_has_its_own_reason(text: str, reason: str) -> None:
    found = extract_answer(text)
    assert (found.answer, found.reason) == (None, reason)


@given(st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "{", "}", "$", " ", "6", "\ud800", "\0"])))
def test_any_mixture_of_tags_gives_an_answer_or_a_reason(parts: list[str]) -> None:
    found = extract_answer("".join(parts))
    assert (found.answer is None) == bool(found.reason)
    assert found.answer != ""


@pytest.mark.parametrize("unit", ["<think>", "</think>", "<answer>", "</answer>", "<answer>\\boxed{", "<answer>{</answer>", "<answer>{{{"])
def test_megabytes_of_tags_are_read_in_linear_time(unit: str) -> None:
    text = "<think></think>" + unit * (4_000_000 // len(unit)) + "</answer>"
    start = time.monotonic()
    extract_answer(text)
    assert time.monotonic() - start < 2
