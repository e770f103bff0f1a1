r"""Reads the final answer from other people's model outputs, which keep no format.

The first place of PLACES that holds an answer decides. Several different answers in the same place count as none, because a text that
tries every option must not be scored by its last option. All functions take time linear in the text.
"""

import re
from collections.abc import Callable

from ovt_ray.core.types import AnswerKind, Problem
from reward.verifier.boxes import boxed_answers
from reward.verifier.clean import restored
from reward.verifier.equivalence import same_answer
from reward.verifier.extract import ANSWER, END_ANSWER, END_THINK, THINK, Extraction
from reward.verifier.mentions import read_statement
from reward.verifier.sentences import CORRECTION, SEVERAL, Statement, sentences

MAX_PHRASES = 20
MAX_ANSWERS = 20
"""Upper bound on the spellings of an answer that are compared in a place. More spellings count as several answers."""
MAX_LINE_CHARS = 400
MAX_TEXT_CHARS = 200_000
"""Number of characters at a text's end that are read. Models write shorter texts."""
TAIL_CHARS = 20_000
"""Number of characters at a text's end that are searched for a phrase."""
_PHRASE = re.compile(
    r"\b(?:(?:final |correct |right |best )?answer|(?:the|my|final|correct|right|best) (?:option|choice))\b[*_]{0,2}"
    r"(?: (?:to|for|of) [^.\n:]{1,80}?)?\s{0,3}(?:is|would be|should be|must be|will be|:|=)(?=[\s:*_$\\(\[\"'<]|\w)[*_:\s]{0,8}",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(r"[*_]{0,2}(?:so|thus|therefore|hence)\b", re.IGNORECASE)
_DENIED = re.compile(
    r"(?:\b(?:not|cannot|never|no way|wrong|incorrect|unlikely|least(?: \w+)?|unclear|whether|(?<!no )(?<!without )doubt|mistake)\b|n't\b"
    r"|\b(?:claims|claimed|says|said|thinks|thought|believes|believed|argues|argued|guesses|guessed)\b"
    r"|\b(?:may|might|people|students|some|others|they) (?:\w+ )?(?:say|think|claim|guess|believe|argue)\b)[^,;:.]{0,40}$",
    re.IGNORECASE,
)
"""Words that deny the phrase after them, or attribute it to someone else."""
_SUPPOSED = re.compile(r"\bif\b[^.]*$", re.IGNORECASE)
_CLAUSE_START = re.compile(r"[,;:]|\b(?:so|thus|therefore|hence|then|because|since|but)\b", re.IGNORECASE)
_LABELLED_LINE = re.compile(r"^[ \t*\-]{0,4}\(?([A-Z])[).:]", re.MULTILINE)
_FILLER = re.compile(r"[\s*_:]*(?:(?:so|thus|therefore|hence|and)\b,?\s*)?(?:the|my|our|this)?\s*", re.IGNORECASE)


class _Truncated(Exception):
    """The text ends before its answer does."""


def _in_tags(text: str, problem: Problem) -> list[Statement]:
    """Return the statements between `<answer>` and `</answer>`."""
    *pieces, tail = text.split(END_ANSWER)
    if ANSWER in tail:
        raise _Truncated(f"truncated: the last {ANSWER} is never closed")
    bodies = [body.strip() for _, opened, body in (piece.rpartition(ANSWER) for piece in pieces) if opened and body.strip()]
    return [_in_body(body, problem) for body in dict.fromkeys(bodies)] if len(set(bodies)) <= MAX_ANSWERS else [SEVERAL]


def _in_boxes(text: str, problem: Problem) -> list[Statement]:
    r"""Return the statement in each `\boxed{}`. The boxes of a list are its items."""
    boxes, is_truncated = boxed_answers(text)
    if is_truncated:
        raise _Truncated("truncated: the last box is never closed")
    if problem.kind is AnswerKind.LIST and len(set(boxes)) > 1:
        return [Statement(answer=", ".join(boxes))]
    return [_stated_or_itself(box, problem) for box in dict.fromkeys(boxes)] if len(set(boxes)) <= MAX_ANSWERS else [SEVERAL]


def _in_phrases(text: str, problem: Problem) -> list[Statement]:
    """Return the statements after phrases such as `the answer is`, up to the end of the line, or of the next line if nothing follows."""
    text = text[-TAIL_CHARS:]
    found = list(_PHRASE.finditer(text))[-MAX_PHRASES:]
    statements = []
    for place, phrase in enumerate(found):
        end = found[place + 1].start() if place + 1 < len(found) else len(text)
        rest = text[phrase.end() : min(end, phrase.end() + 2 * MAX_LINE_CHARS)].lstrip()
        segment = rest.split("\n", 1)[0]
        if not _FILLER.fullmatch(segment):  # `Answer: the answer is 5` is one phrase
            statements.append(read_statement(segment, problem))
    if statements and CORRECTION.search(text, found[-1].end()):
        return [SEVERAL]
    if problem.kind is AnswerKind.YESNO and statements:
        statements.append(read_statement(sentences(text)[0], problem))  # `Yes. ... So the answer is no.` says both
    return [statement for statement in statements if statement.answer is not None or statement.is_several]


def _without_denied_phrases(text: str) -> str:
    """Return the text without the sentences that deny or suppose `the answer is`, or attribute it to another person."""
    place = max(0, len(text) - TAIL_CHARS)
    kept = [text[:place]]
    for phrase in list(_PHRASE.finditer(text, place))[-MAX_PHRASES:]:
        if phrase.start() < place or not _is_denied(text, phrase):
            continue
        kept.append(text[place : phrase.start()])
        rest = text[phrase.end() : phrase.end() + 2 * MAX_LINE_CHARS]
        place = phrase.end() + len(rest) - len(rest.lstrip()) + len(sentences(rest.lstrip())[0])
    return "".join([*kept, text[place:]])


def _is_denied(text: str, phrase: re.Match[str]) -> bool:
    """Return whether the words before a phrase in its sentence take it back."""
    before = sentences(text[max(0, phrase.start() - MAX_LINE_CHARS) : phrase.start()] + "|")[-1].removesuffix("|")
    if "would" in phrase[0] and _SUPPOSED.search(before):
        return True
    return _DENIED.search(_CLAUSE_START.split(before)[-1]) is not None


def _alone(text: str, problem: Problem) -> list[Statement]:
    """Return the answer that all of a short text states."""
    if len(text) > MAX_LINE_CHARS or "\n" in text.strip():
        return []
    statement = read_statement(text, problem)
    if statement.is_several and problem.kind is AnswerKind.CHOICE and _CONCLUSION.match(sentences(text)[-1]):
        return []  # the conclusion counts, not the comparison
    return _kept(statement)


def _at_the_ends(text: str, problem: Problem) -> list[Statement]:
    """Return the statement of the last sentence. For an option or yes and no also return the statement of the first sentence."""
    last = sentences(text[-2 * MAX_LINE_CHARS :])[-1]
    closing = _kept(read_statement(last, problem)) if len(last) <= MAX_LINE_CHARS else []
    if problem.kind not in (AnswerKind.CHOICE, AnswerKind.YESNO):
        return closing
    if len(set(_LABELLED_LINE.findall(text[-TAIL_CHARS:]))) > 1:  # the text lists the options, or answers with all of them
        return [SEVERAL] if _LABELLED_LINE.match(last) else closing
    opening = _kept(read_statement(sentences(text[: 2 * MAX_LINE_CHARS])[0], problem))
    if _CONCLUSION.match(last) and any(statement.answer is not None for statement in closing):
        opening = [statement for statement in opening if not statement.is_several]
    if any(statement.answer is not None for statement in opening):  # the last sentence may discuss other options, but not choose one
        closing = [statement for statement in closing if not statement.is_several]
    return opening + closing


PLACES: tuple[tuple[str, Callable[[str, Problem], list[Statement]]], ...] = (
    ("answer tags", _in_tags),
    ("boxes", _in_boxes),
    ("'the answer is'", _in_phrases),
    ("all of the text", _alone),
    ("its ends", _at_the_ends),
)
"""Places of answers, in the order of the search."""


def extract_lenient(text: str, problem: Problem) -> Extraction:
    """Return the final answer of a text in any format, else the reason why there is none: several, none, or truncated."""
    text = _after_thinking(restored(text[-MAX_TEXT_CHARS:])).strip()
    if not text:
        return Extraction(answer=None, reason="no text, or nothing after the thinking")
    try:
        for name, read in PLACES:
            if read is _in_phrases:  # tags and boxes mark an answer even after a denial; the later places do not
                text = _without_denied_phrases(text)
            if statements := read(text, problem):
                return _one_of(statements, name, problem)
    except _Truncated as error:
        return Extraction(answer=None, reason=str(error))
    return Extraction(answer=None, reason="no answer found in tags, boxes, phrases or at the end")


def _one_of(statements: list[Statement], name: str, problem: Problem) -> Extraction:
    """Return the answer that all statements of a place agree on."""
    answers = list(dict.fromkeys(statement.answer for statement in statements if statement.answer is not None))
    if any(statement.is_several for statement in statements) or not 0 < len(answers) <= MAX_ANSWERS:
        return Extraction(answer=None, reason=f"several different answers in {name}")
    other = next((answer for answer in answers[:-1] if not same_answer(answer, answers[-1], problem)), None)
    if other is not None:
        return Extraction(answer=None, reason=f"several different answers in {name}: {other[:40]!r} and {answers[-1][:40]!r}")
    return Extraction(answer=answers[-1])


def _in_body(body: str, problem: Problem) -> Statement:
    """Return the statement of the text between tags: of its box if it has exactly one, else of all of it."""
    boxes, is_truncated = boxed_answers(body)
    if boxes and not is_truncated and len(set(boxes)) == 1:
        return _stated_or_itself(boxes[0], problem)
    return _stated_or_itself(body, problem)


def _stated_or_itself(text: str, problem: Problem) -> Statement:
    """Return the statement of a text that is marked as the answer. If it states no answer or several, the whole text is the answer."""
    statement = read_statement(text, problem)
    return statement if statement.answer is not None else Statement(answer=text.strip())


def _kept(statement: Statement) -> list[Statement]:
    """Return the statement in a list if it has an answer or several answers, else an empty list."""
    return [statement] if statement.answer is not None or statement.is_several else []


def _after_thinking(text: str) -> str:
    """Return the text after the thinking. A text whose thinking is never closed has none."""
    if END_THINK in text:
        return text.rpartition(END_THINK)[2]
    return "" if text.lstrip().startswith(THINK) else text
