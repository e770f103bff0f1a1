"""Reads the one answer that a phrase or sentence states: `The value is 5 cm.`, `B, because ...`, `so 2 + 3 = 5`.

Nothing here decides whether an answer is right. A sentence that states several answers, denies one, or gives a bound, states none.
"""

import re
from dataclasses import dataclass

from ovt_ray.types import AnswerKind, Problem
from reward.choices import find_choice
from reward.clean import flattened, tidy
from reward.numbers import read_number
from reward.symbolic import is_expression
from reward.texts import key
from reward.units import known
from reward.yesno import read_truth

MAX_SENTENCE_CHARS = 600
_NEGATION = re.compile(
    r"\b(?:not|n't|cannot|can't|isn't|aren't|doesn't|don't|neither|nor|unable|impossible|incorrect|wrong|except|unclear)\b|n't\b", re.I
)
_BOUND = re.compile(
    r"\b(?:(?:more|less|fewer|greater|larger|smaller|higher|lower) than|at (?:least|most)|between|up to|over|under|below|above)\b|[<>≤≥]",
    re.I,
)
_SENTENCE_END = re.compile(r"(?<=[^\s.][.!?])[*_]{0,2}\s+(?=[A-Z(\"'*\\$])|\n")
_REASON = re.compile(r",? (?:because|since|as|which|given that|due to|based on|by)\b", re.I)
_CLAUSE_END = re.compile(r" (?:for|in|on|from|when|where)\b|[,;] |\s[(—–-]", re.I)
_ALTERNATIVE = re.compile(r"\b(?:answer|or|either|alternatively|also)\b", re.I)
_STATES = re.compile(r"(?:\b(?:is|are|was|were|equals|be|approximately|about|have|has|shows?|get|gives?|total of)\b|[:=≈])\s*", re.I)
_NUMBER = re.compile(
    r"""
    (?<![\w^\\/.,:])(?:-(?=[$\d.]))?(?:\\?[$€£])?
    (?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+|(?=\.\d))(?:\.\d+)?
    (?:\ ?/\ ?\d+(?!\d|\.\d))?
    (?:\ ?\\?%|°|)(?:\ (?:thousand|million|billion|trillion)\b)?
    (?:(?:cm|mm|km|kg|mg|ml|ft|in|g|m|s|h)\b|(?![\w^]))(?![:/]\d)
    """,
    re.VERBOSE | re.ASCII,
)
_UNIT_WORD = re.compile(r" ([A-Za-z$]+(?:\^\{?[23]\}?)?)(?!\w)")
_MARKED_LETTER = re.compile(
    r"""
    (?<![\w)])\(([A-Za-z])\) | \*\*\(?([A-Z])[.)]?\*\* | \\text\{\(?([A-Z])\)?\}
    | \b(?:[Oo]ption|[Cc]hoice|[Aa]nswer(?:\ is)?:?)\ \(?
      ([B-Z]|A(?!\ [a-z])|A(?=\ (?:because|since|as|which|is)\b)|[a-z](?=[).]|$))(?=[\s).,:;*]|$)
    | ^\(?([A-Za-z])(?:[.):,](?=\s|$)|$)
    """,
    re.VERBOSE,
)
_LETTERS = re.compile(r"(?<!\w)\(?[A-Z]\)?(?:\s*(?:,|/|&|;|\bor\b|\band\b)\s*(?:or |and )?\(?[A-Z]\)?(?!\w))+")
_CAPITAL = re.compile(r"(?<![\w'])([B-Z]|A(?! [a-z]))(?![\w'])")
_MATHS = re.compile(r"\$([^$]{1,200})\$|\\\(([^\n]{1,200}?)\\\)")
_LIST = re.compile(r"\[[^\[\]]{1,500}\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a sentence states."""

    answer: str | None
    is_several: bool = False
    """Whether there is no answer because there are several."""


NOTHING, SEVERAL = Statement(answer=None), Statement(answer=None, is_several=True)


def read_statement(sentence: str, problem: Problem) -> Statement:
    """Return the one answer of the problem's kind that a phrase or a few sentences state."""
    text = tidy(sentence)[:MAX_SENTENCE_CHARS] if len(sentence) < 10 * MAX_SENTENCE_CHARS else ""
    match problem.kind:
        case AnswerKind.NUMBER:
            return _number_in(text)
        case AnswerKind.CHOICE:
            return _choice_in(text, problem.choices)
        case AnswerKind.YESNO:
            return Statement(answer=text) if read_truth(text) is not None else NOTHING
        case AnswerKind.TEXT:
            return Statement(answer=sentences(text)[0].strip()) if text else NOTHING
        case AnswerKind.LATEX:
            return _expression_in(text)
        case AnswerKind.LIST:
            found = _LIST.findall(text)
            return Statement(answer=found[-1] if found else text) if len(set(found)) < 2 else SEVERAL


def sentences(text: str) -> list[str]:
    """Return the lines and sentences of a text, at least one, empty ones left out."""
    return [sentence for sentence in _SENTENCE_END.split(text) if sentence and sentence.strip()] or [text]


def _number_in(text: str) -> Statement:
    """Return the number that is the text, leads it, or is the only one in it, or in what follows its last `is` or `=`."""
    for part in _beginnings(text):
        if read_number(part) is not None:
            return Statement(answer=part)
    if is_expression(text) and any(mark in text for mark in "\\√π^"):
        return Statement(answer=text)
    flat = flattened(text)
    if _NEGATION.search(flat) or _BOUND.search(flat):
        return NOTHING
    found = _numbers(flat)
    if len(found) > 1 and (states := list(_STATES.finditer(flat))):
        tail = flat[states[-1].end() :]
        whole = next((part for part in _beginnings(tail) if read_number(part) is not None), None)
        return Statement(answer=whole) if whole is not None and len(_numbers(tail)) < 2 else SEVERAL
    if len(found) > 1:
        return SEVERAL
    return Statement(answer=next(iter(found.values()))) if found else NOTHING


def _numbers(text: str) -> dict[object, str]:
    """Return the numbers in a text as written, by value."""
    written = [found[0] + _unit_after(text, found.end()) for found in _NUMBER.finditer(text)]
    read = [(read_number(number), number) for number in written]
    return {(number.value, number.is_percent): written for number, written in read if number is not None}


def _unit_after(text: str, place: int) -> str:
    """Return the word at a place with the blank before it if it is a unit that is converted, else nothing."""
    word = _UNIT_WORD.match(text, place)
    return word[0] if word and known(word[1]) is not None else ""


def _beginnings(text: str) -> list[str]:
    """Return the text, its first sentence, that sentence without its reason, and its first clause where the rest has no number."""
    found = [text.strip()]
    first = sentences(text)[0].strip()
    if _ALTERNATIVE.search(text[len(first) :]) is None:
        found.append(first)
        if _ALTERNATIVE.search(first) is None:
            found.append(_REASON.split(first, maxsplit=1)[0].strip())
        clause = _CLAUSE_END.split(first, maxsplit=1)[0].strip()
        if not _numbers(text[len(clause) :]):
            found.append(clause)
    return list(dict.fromkeys(found))


def _choice_in(text: str, choices: tuple[str, ...]) -> Statement:
    """Return the option that is the text or leads it, or the only one that it mentions."""
    first = sentences(text)[0].strip()
    for part in dict.fromkeys([text, first]):
        if part and find_choice(part, choices) is not None:
            return Statement(answer=part) if part == text else _unless_contradicted(part, text, choices)
    if _NEGATION.search(text) and not any(_NEGATION.search(choice) for choice in choices):
        return NOTHING
    if _LETTERS.search(text) and not any(_LETTERS.search(choice) for choice in choices):
        return SEVERAL
    letters, texts = _letters_in(text, choices), _texts_in(text, choices)
    if len(letters) == 1 and (not texts or texts & letters):
        return Statement(answer=f"({chr(ord('A') + next(iter(letters)))})")
    if letters or len(texts) > 1:
        return SEVERAL
    if texts:
        return Statement(answer=choices[next(iter(texts))])
    number = _number_in(text)
    if number.answer is not None and find_choice(number.answer, choices) is not None:
        return number
    return Statement(answer=text) if len(text) > 1 and is_expression(text) else NOTHING


def _unless_contradicted(part: str, text: str, choices: tuple[str, ...]) -> Statement:
    """Return the option that a first sentence names, unless what follows marks another one by letter, or as an alternative."""
    place = find_choice(part, choices)
    rest = text[len(part) :]
    others = _letters_in(rest, choices) | (_texts_in(rest, choices) if _ALTERNATIVE.search(rest) else set())
    return SEVERAL if others - {place} else Statement(answer=part)


def _letters_in(text: str, choices: tuple[str, ...]) -> set[int]:
    """Return the places of the options that are mentioned by letter; a lone capital is one only where the options are letters."""
    letters = [next(part for part in found.groups() if part) for found in _MARKED_LETTER.finditer(text)]
    if not letters and all(len(choice.strip("() ")) == 1 for choice in choices):
        letters = _CAPITAL.findall(text)
    places = {ord(letter.upper()) - ord("A") for letter in letters}
    return {place for place in places if place < len(choices)}


def _texts_in(text: str, choices: tuple[str, ...]) -> set[int]:
    """Return the places of the options whose text is mentioned as whole words, longest first, so that none counts inside another."""
    words = f" {key(text)} "
    found: set[int] = set()
    for place in sorted(range(len(choices)), key=lambda place: -len(choices[place])):
        spelling = key(choices[place])
        if len(spelling) < 2 and not spelling.isdigit():
            continue
        pattern = re.compile(rf"(?<![\w.,/^\\-]){re.escape(spelling)}(?![\w/^°%]|[.,:]\d)")
        if pattern.search(words):
            found.add(place)
            words = pattern.sub(" ", words)
    return found


def _expression_in(text: str) -> Statement:
    """Return the text if it is mathematics, else the only formula in it, else what follows its last `=` or `is`."""
    if is_expression(text):
        return Statement(answer=text)
    formulas = list(dict.fromkeys(next(part for part in found.groups() if part) for found in _MATHS.finditer(text)))
    if len(formulas) == 1 and not _NEGATION.search(text):
        return Statement(answer=formulas[0])
    tail = re.split(r"\b(?:is|are|equals)\b:?", text)[-1].strip()
    if len(formulas) < 2 and tail and is_expression(tail) and not _NEGATION.search(text):
        return Statement(answer=tail)
    return Statement(answer=sentences(text)[0].strip()) if len(formulas) < 2 else SEVERAL
