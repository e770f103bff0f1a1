r"""Writes the request to a text-only reasoner, and turns its answer into a response in the recipe's format. Pure functions of text."""

import re
from collections.abc import Collection

from ovt_ray.core.prompts import shown_text
from ovt_ray.core.types import AnswerKind, Problem
from reward.verifier.boxes import boxed_answers
from reward.verifier.extract import ANSWER, END_THINK, THINK

PLACES = re.compile(r"\{(caption|question)\}")


def captioned(problem: Problem, caption: str, instruction: str, tokens: Collection[str] = ()) -> Problem:
    """Return the text-only problem for the reasoner: the instruction with caption, question and choices in their places.

    It holds neither picture nor gold answer. A place inside a caption or a question is not filled. `tokens` are removed from the question
    and its choices.
    """
    texts = {"caption": caption, "question": without_tokens(shown_text(problem), tokens)}
    question = PLACES.sub(lambda place: texts[place[1]], instruction)
    return Problem(id=problem.id, question=question, images=(), answer="", kind=AnswerKind.TEXT)


def without_tokens(text: str, tokens: Collection[str]) -> str:
    """Return the stripped text with a space for each token. Without the space, the parts around a token could form a new token.

    Captions of a model and questions of any author may hold any text, for example the token that ends the reasoner's turn.
    """
    for token in sorted(tokens, key=len, reverse=True):
        text = text.replace(token, " ")
    return text.strip()


def as_response(text: str) -> str:
    r"""Return a reasoner's answer as `<think> ... </think> ... <answer> ... </answer>`.

    Chat templates of R1's kind write `<think>` into the prompt, so this function restores it. Such models answer in `\boxed{}` after their
    thinking, so it appends the content of each different box as an answer. Only a response with a single answer is valid. Text without a
    box, or whose thinking never ends, has no final answer and gets none.
    """
    thinking, closing, rest = text.partition(END_THINK)
    if not closing:
        return text
    if not thinking.lstrip().startswith(THINK):
        thinking = THINK + thinking
    boxes, stays_open = boxed_answers(rest)
    if ANSWER in rest or stays_open or not boxes:
        return f"{thinking}{closing}{rest}"
    answers = " ".join(f"<answer> {box} </answer>" for box in dict.fromkeys(boxes))
    return f"{thinking}{closing}{rest.rstrip()} {answers}"
