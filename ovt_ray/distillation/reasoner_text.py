r"""What a text-only reasoner is asked, and how its answer becomes a response in the recipe's format. Pure functions of text."""

import re
from collections.abc import Collection

from ovt_ray.core.prompts import shown_text
from ovt_ray.core.types import AnswerKind, Problem
from reward.verifier.boxes import boxed_answers
from reward.verifier.extract import ANSWER, END_THINK, THINK

PLACES = re.compile(r"\{(caption|question)\}")


def captioned(problem: Problem, caption: str, instruction: str, tokens: Collection[str] = ()) -> Problem:
    """Return the text-only problem that the reasoner is asked: the instruction with caption, question and choices in their places.

    It holds neither picture nor gold answer. A place that stands in a caption or a question is not filled. `tokens` are taken out of the
    question and its choices.
    """
    texts = {"caption": caption, "question": without_tokens(shown_text(problem), tokens)}
    question = PLACES.sub(lambda place: texts[place[1]], instruction)
    return Problem(id=problem.id, question=question, images=(), answer="", kind=AnswerKind.TEXT)


def without_tokens(text: str, tokens: Collection[str]) -> str:
    """Return the text, its ends trimmed, with a space for each token; a space, as what stood around a token could else become one.

    A caption is written by a model, a question by whoever, and may hold anything, such as what the reasoner reads as the end of its turn.
    """
    for token in sorted(tokens, key=len, reverse=True):
        text = text.replace(token, " ")
    return text.strip()


def as_response(text: str) -> str:
    r"""Return a reasoner's answer as `<think> ... </think> ... <answer> ... </answer>`.

    Chat templates of R1's kind write `<think>` into the prompt, so it is put back; and such models answer in `\boxed{}`, after their
    thinking: what stands in each box is given again as an answer, of which only one may be left. Text whose thinking never ends, or
    without a box, has no final answer and is returned as it is.
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
