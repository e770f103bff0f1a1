"""Reads the answer that a phrase or sentence states, by the kind of the problem.

Nothing here decides whether an answer is right. A sentence that states several answers, denies an answer or gives a bound states none.
"""

import re

from ovt_ray.core.types import AnswerKind, Problem
from reward.verifier.choice_mentions import choice_in
from reward.verifier.clean import tidy
from reward.verifier.number_mentions import number_in
from reward.verifier.sentences import NEGATION, NOTHING, SEVERAL, Statement, sentences
from reward.verifier.symbolic import is_expression
from reward.verifier.yesno import read_truth

MAX_SENTENCE_CHARS = 600
_CONTRAST = re.compile(r", (?:and )?not (?!sure|certain|exactly|enough|possible|all|quite)[^,.;]{1,40}(?=[.,;]|$)", re.I)
_MATHS = re.compile(r"\$([^$]{1,200})\$|\\\(([^\n]{1,200}?)\\\)")
_LIST = re.compile(r"\[[^\[\]]{1,500}\]")


def read_statement(sentence: str, problem: Problem) -> Statement:
    """Return the only answer of the problem's kind that a phrase or a few sentences state."""
    text = tidy(sentence)[:MAX_SENTENCE_CHARS] if len(sentence) < 10 * MAX_SENTENCE_CHARS else ""
    if problem.kind in (AnswerKind.NUMBER, AnswerKind.CHOICE):
        text = _CONTRAST.sub("", text)
    match problem.kind:
        case AnswerKind.NUMBER:
            return number_in(text)
        case AnswerKind.CHOICE:
            return choice_in(text, problem.choices)
        case AnswerKind.YESNO:
            return Statement(answer=text) if read_truth(text) is not None else NOTHING
        case AnswerKind.TEXT:
            return Statement(answer=sentences(text)[0].strip()) if text else NOTHING
        case AnswerKind.LATEX:
            return _expression_in(text)
        case AnswerKind.LIST:
            return _list_in(text)


def _list_in(text: str) -> Statement:
    """Return the only list in brackets, else the text."""
    if NEGATION.search(text):
        return NOTHING
    found = list(dict.fromkeys(_LIST.findall(text)))
    if len(found) > 1:
        return SEVERAL
    return Statement(answer=found[0] if found and "[[" not in text.replace(" ", "") else text)


def _expression_in(text: str) -> Statement:
    """Return the text if it is mathematics, else its only formula, else the text after its last `is`, `are` or `equals`."""
    if is_expression(text):
        return Statement(answer=text)
    formulas = list(dict.fromkeys(next(part for part in found.groups() if part) for found in _MATHS.finditer(text)))
    if len(formulas) == 1 and not NEGATION.search(text):
        return Statement(answer=formulas[0])
    tail = re.split(r"\b(?:is|are|equals)\b:?", text)[-1].strip()
    if len(formulas) < 2 and tail and is_expression(tail) and not NEGATION.search(text):
        return Statement(answer=tail)
    return Statement(answer=sentences(text)[0].strip()) if len(formulas) < 2 else SEVERAL
