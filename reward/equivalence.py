"""Compares an extracted answer with the gold one, by the kind of the problem. Pure, exact, no tolerance.

Nothing is evaluated, and no answer beyond MAX_CHARS is looked at, so hostile text costs no time. Where a reading is doubtful
the answer is wrong: in reinforcement learning a false accept is learnt, a false reject only slows learning.
"""

import re
import unicodedata
from fractions import Fraction

from ovt_ray.errors import DataError
from ovt_ray.types import AnswerKind, Problem

MAX_CHARS = 1000
"""Longest answer that is compared; more is no final answer, and wrong."""
MAX_NUMBER_CHARS = 100
"""Longest text read as a number, unit included; bounds the integers that are built."""

_NUMBER = re.compile(
    r"""
    (?P<sign>-|\+|)[$€£]?(?P<inner_sign>(?<=[$€£])-|)          # -5, -$5, $-5
    (?P<value>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)  # 1,522.81  84  5.  .5
    (?:\ ?/\ ?(?P<divisor>0*[1-9]\d*))?                        # 3/10
    \ ?(?P<percent>%|percent\b|)[$€£]?
    (?:\ (?P<unit>[A-Za-z][A-Za-z'\- ]*))?                     # 5 apples, $9 per day
    """,
    re.VERBOSE | re.ASCII,
)
_MAX_UNIT_WORDS = 4
_VALUE_WORDS = """
    and or to not nor plus minus times point over by less more maybe squared cubed mod pi i e x y k m b bn mn cent cents
    half halves third thirds quarter quarters fifth fifths tenth tenths hundredth hundredths
    dozen hundred hundreds thousand thousands million millions billion billions trillion trillions
    zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy eighty ninety
"""
_NOT_UNITS = frozenset(_VALUE_WORDS.split())
"""Words that change the value they follow, so that `5 million` is not `5`."""
_YES, _NO = frozenset({"yes", "true"}), frozenset({"no", "false"})
_BEFORE, _AFTER = " ,;:\"'`*_([{", " .,;:!?\"'`*_)]}"
"""Punctuation around a text that says nothing; a point before it does (`.5`)."""
_STRAIGHT = str.maketrans("’‘“”−", "''\"\"-")
_LETTER = re.compile(r"(?P<letter>[a-z])(?:(?:[).:]+ ?| )(?P<rest>.+))?")
_BRACKETED_LETTER = re.compile(r"\([A-Za-z]\)\.?")


def is_equivalent(answer: str, problem: Problem) -> bool:
    """Return whether the answer means the problem's gold answer.

    Raises DataError if the gold answer itself cannot be read as the problem's kind.
    """
    if len(problem.answer) > MAX_CHARS or not problem.answer.strip():
        raise DataError(f"problem {problem.id}: its gold answer is empty or longer than {MAX_CHARS} characters")
    if len(answer) > MAX_CHARS:
        return False
    match problem.kind:
        case AnswerKind.NUMBER:
            return _same_number(answer, problem)
        case AnswerKind.YESNO:
            return _same_truth(answer, problem)
        case AnswerKind.CHOICE:
            return _chosen(answer, problem.choices) == problem.answer
        case AnswerKind.TEXT:
            return _without_article(_plain(answer)) == _without_article(_plain(problem.answer))


def _same_number(answer: str, problem: Problem) -> bool:
    """Return whether both are the same number. A unit after it says nothing: the question has named it.

    A percent sign on one side only is a unit too (`40%` for 40), unless the plain side is below 1 and so is itself a share
    (`40%` for 0.4, not `0.4%`).
    """
    gold, given = _read_number(problem.answer), _read_number(answer)
    if gold is None:
        raise DataError(f"problem {problem.id}: its gold answer {problem.answer!r} is not a number; use kind 'text'")
    if given is None:
        return False
    if gold[1] == given[1]:
        return gold[0] == given[0]
    (plain, _), (percent, _) = (given, gold) if gold[1] else (gold, given)
    return plain == percent / 100 or (plain == percent and not 0 < abs(plain) < 1)


def _read_number(text: str) -> tuple[Fraction, bool] | None:
    """Return the exact value, and whether a percent sign follows it; None if the text is not one number."""
    text = _spaced(text).replace("\\$", "$").replace("\\%", "%")
    if len(text) > MAX_NUMBER_CHARS:
        return None
    match = _NUMBER.fullmatch(text.removesuffix("."))
    if match is None or not _is_unit(match["unit"] or ""):
        return None
    value = Fraction(match["value"].replace(",", "").removesuffix(".")) / int(match["divisor"] or 1)
    is_negative = "-" in match["sign"] + match["inner_sign"]
    return -value if is_negative else value, bool(match["percent"])


def _is_unit(words: str) -> bool:
    """Return whether the words after a number can be its unit: few, and none that changes the value."""
    parts = re.split(r"[ \-]+", words.lower())
    return len(parts) <= _MAX_UNIT_WORDS and _NOT_UNITS.isdisjoint(parts)


def _same_truth(answer: str, problem: Problem) -> bool:
    """Return whether both say yes, or both say no."""
    gold = _plain(problem.answer)
    if gold not in _YES | _NO:
        raise DataError(f"problem {problem.id}: its gold answer {problem.answer!r} is not one of yes, no, true, false")
    return _plain(answer) in (_YES if gold in _YES else _NO)


def _chosen(answer: str, choices: tuple[str, ...]) -> str | None:
    """Return the choice that the answer names by letter, by text or by both; None if it names none.

    A letter and a text that belong to different choices name none. Where choices are themselves letters, a bare letter is
    the text and a bracketed one, `(B)`, the letter. `A shortage` is letter and text, `a shortage` has an article.
    """
    spaced, plain = _spaced(answer), _plain(answer)
    by_text = {_without_article(_plain(choice)): choice for choice in reversed(choices)}
    by_text |= {_plain(choice): choice for choice in reversed(choices)}
    by_text |= {choice: choice for choice in choices}
    if not _BRACKETED_LETTER.fullmatch(spaced) and (same := by_text.get(spaced) or by_text.get(plain)):
        return same
    match = _LETTER.fullmatch(plain)
    if match is None or spaced.startswith("a "):
        return by_text.get(_without_article(plain))
    place, rest = ord(match["letter"]) - ord("a"), match["rest"]
    if place >= len(choices) or (rest and by_text.get(_without_article(_plain(rest))) != choices[place]):
        return None
    return choices[place]


def _plain(text: str) -> str:
    """Return the text without case, surrounding punctuation and runs of white space; itself where nothing else is left."""
    spaced = unicodedata.normalize("NFC", _spaced(text)).casefold()
    return spaced.lstrip(_BEFORE).rstrip(_AFTER) or spaced


def _without_article(plain: str) -> str:
    """Return a plain text without its leading article."""
    first, _, rest = plain.partition(" ")
    return rest if rest and first in ("a", "an", "the") else plain


def _spaced(text: str) -> str:
    """Return the text with straight quotes and minus signs, and one blank for each run of white space."""
    return " ".join(text.translate(_STRAIGHT).split())
