r"""Distinguishes equations that give a value (`x = 4`, `Area = 4`, `2 + 2 = 4`) from equations that hide it (`2x = 4`, `x^2 = 4`)."""

import re

from reward.verifier.units import known

_FUNCTION = (
    r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|lg|exp|sqrt|root|det|mod|half|twice|thrice|double|triple|squared|cubed"
    r"|reciprocal|inverse|times|minus|plus|negative|square of|cube of"
)
_ANY_FUNCTION = re.compile(rf"(?<![A-Za-z])(?:{_FUNCTION})(?![A-Za-z])", re.IGNORECASE)
_SYMBOL = (
    r"(?:m ?)?(?:[∠△Δ] ?|\\triangle ?)?"
    r"(?:[A-Z]'*(?:_\w|[A-Z]'*)*|[a-zθαβπ]|\\(?:gamma|delta|lambda|mu|sigma|phi|rho|omega|tau|ell)|\|[A-Z]{2}\|"
    r"|\\(?:overline|bar|hat|widehat|overarc|overparen|vec)\{ ?\w{1,3} ?\})"
    r"(?:_(?:\w{1,4}|\{[^{}]{1,20}\}))?(?:\((?:[\d,.\- ]{1,12}|[A-Z ,∪∩|]{1,12})\)|(?<=[Pp])\([\w ]{1,20}\))?[°?]?"
)
_SYMBOL_ALONE = re.compile(_SYMBOL)
_WORD = rf"(?:[A-Za-z][A-Za-z'-]+|{_SYMBOL}|\([A-Za-z ]{{1,20}}\))"
_PHRASE = re.compile(rf"(?=[^=]*[A-Za-z]{{3}}){_WORD}(?: {_WORD}){{0,7}}")
_ARITHMETIC = re.compile(r"(?=[^=]*\d)(?=[^=]*[+\-*/×·÷^√(:]|[^=]*\\)(?:[\d\s+\-*/().,×·÷^√$€£%°{}!:π]|\\(?:sqrt|frac|div|%))+")
_NUMBERED_ANGLE = re.compile(r"∠ ?\d$")
_UNIT = re.compile(r"(?<=[\d)%]) ?([A-Za-z]{2,}(?:\^[23])?)(?![A-Za-z])")
_MIN_UNKNOWN_LETTERS = 4
"""Fewest letters of a word that may be a unit without being in the table. Shorter words may be products of variables."""
_EQUALS = re.compile("[=≈]")
_CLAUSE_START = re.compile(
    r"[;?:⇒→]|, |\. |\\(?:Rightarrow|implies|to)\b|\b(?:gives?|get|so|then|means|yields?|implies|where|since|because)\b"
)
_SHORT_WORDS = "so is or in to of at an if no by as it we on up be"
_PROSE = frozenset(_SHORT_WORDS.split())
_SHARE_OF = re.compile(r"(?<=[\d%]) of (?=[$\d])")
_MAX_CHARS = 120


def gives_value(side: str) -> bool:
    r"""Return whether an equation with this left side gives a value: the side is a name (`x`, `AB`, `\angle A`, `f(2)`) or arithmetic."""
    side = _SHARE_OF.sub(" · ", side.strip(" $*:"))
    if len(side) > _MAX_CHARS or _ANY_FUNCTION.search(side.replace("\\sqrt", "√")):
        return False
    side = _NUMBERED_ANGLE.sub("∠A", side)
    if _SYMBOL_ALONE.fullmatch(side) or _PHRASE.fullmatch(side):
        return True
    return _ARITHMETIC.fullmatch(_UNIT.sub(_without_unit, side)) is not None


def hides_value(text: str) -> bool:
    """Return whether the end of a text is a side of an equation that gives no value. The number after `and so 2x =` is not x."""
    clause = _SHARE_OF.sub(" · ", _CLAUSE_START.split(text)[-1])
    if not _EQUALS.search(clause):
        return False
    left = _formula_at_end(_EQUALS.split(clause, maxsplit=1)[0])
    return bool(left) and not gives_value(left)


def _formula_at_end(text: str) -> str:
    """Return the formula at the end of a text: `2x` of `and so 2x`."""
    words = text.split()
    place = len(words)
    while place and not _is_prose(words[place - 1]):
        place -= 1
    return " ".join(words[place:])


def _is_prose(word: str) -> bool:
    """Return whether a word is prose and no part of a formula."""
    word = word.strip("*_,")
    return word.lower() in _PROSE or (len(word) > 2 and word.isalpha() and not word.isupper() and not _ANY_FUNCTION.fullmatch(word))


def _without_unit(found: re.Match[str]) -> str:
    """Return an empty text for a unit, and the same letters where they may be variables."""
    return "" if len(found[1]) >= _MIN_UNKNOWN_LETTERS or known(found[1]) is not None else found[0]
