"""Reads the number that a phrase or sentence states: `The value is 5 cm.`, `so 2 + 3 = 5`, `There are five apples.`"""

import re

from reward.verifier.clean import flattened
from reward.verifier.equations import hides_value
from reward.verifier.lists import split_items
from reward.verifier.numbers import read_number
from reward.verifier.sentences import ALTERNATIVE, NEGATION, NOTHING, REASON, SEVERAL, Statement, sentences
from reward.verifier.symbolic import is_expression
from reward.verifier.units import VALUE_WORDS, known
from reward.verifier.words import in_digits, signed

_BOUND = re.compile(
    r"\b(?:(?:more|less|fewer|greater|larger|smaller|higher|lower) than|at (?:least|most)|between|up to|over|under|below|above"
    r"|before|after|until|almost|nearly)(?: (?:about|around|the|a|an|year|approximately))? ?$",
    re.I,
)
_OPERATION = re.compile(
    r"(?:\b(?:half|twice|thrice|double|triple|square|cube|root|log|ln|sqrt|reciprocal|inverse|negative|minus|maybe|no|min|max"
    r"|(?:decrease|drop|fall|loss|reduction|decline)(?= of))|(?<!\w)-)(?: of)?(?: the| a)? ?\(?$",
    re.I,
)
"""Words that change the number after them."""
_LABEL = re.compile(
    r"(?:\b(?:step|figure|fig\.|table|page|row|column|question|problem|exercise|equation|case|part|paragraph|section|chapter|version"
    r"|option|group|bar|line|base|as of|since|january|february|march|april|may|june|july|august|september|october|november|december)"
    r"|(?<!#)#) ?$",
    re.I,
)
"""Words whose number is a name."""
_LEADING_YEAR = re.compile(r"(?:In|By|For) (?:1[5-9]|20)\d\d, ")
_BOLD = re.compile(r"(?<![\w*-])\*\*([^*]{1,60})\*\*(?![\w*])")
_SIGN_OUTSIDE = re.compile(r"-(\*\*)(?=[$.\d])|\$-\$ ?(?=[.\d])")
"""A minus before a bold number, or in a formula of its own."""
_REMARK = re.compile(r" \([^()]{1,200}\)(?=[.!]?$)")
_COMPARISON = re.compile("[<>≤≥≠]|!=")
_CLAUSE_END = re.compile(r" (?:for|in|on|from|when|where)\b|[,;] |\s[(—–-]", re.I)
_STATES = re.compile(
    r"(?:\b(?:is|are|was|were|equals|be|approximately|about|have|has|shows?|measures?|get|gives?|total of)\b|[:=≈])\s*", re.I
)
_NUMBER = re.compile(
    r"""
    (?<![\w^\\/.,:±|$€£])(?<!-\()(?<![A-Za-z']\()(?<!-)(?:-(?=[$\d.]))?(?:(?<!\()\\?[$€£])?
    (?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+|(?=\.\d))(?:\.\d+)?
    (?:\ ?/\ ?\d+(?!\d|\.\d))?
    (?:\ ?\\?%|°|)(?:\ (?:thousand|million|billion|trillion)\b)?
    (?:(?:cm|mm|km|kg|mg|ml|ft|in|g|m|s|h)\b|(?![\w^+!¢]))(?![:/.,\-|]{1,3}\d)
    """,
    re.VERBOSE | re.ASCII,
)
_UNIT_WORD = re.compile(r"[ -]?([A-Za-z$¢]+(?:\^\{?[23]\}?)?)(?!\w)")
_NEXT_WORDS = re.compile(r"[ -](\w+)(?: (\w+))?")
_COMPARING = {"less", "more", "fewer", "out", "below", "am", "pm"}
"""Words that make the number before them a difference, a part of another number, or a time."""
_FACTOR = re.compile(r" and (?:a|one) (?:half|third|quarter)|[ ]pi\b| ?[ap]\.m\b| [b-zM](?!\w|\.\w|['/])|-?ish\b|-to-\d")
"""Texts that change the number before them and are no units: a part, or a variable."""
_ONE_AS_PRONOUN = re.compile(
    r"(?<!\bis )(?<!\bare )(?<!\bwas )(?<!\bhas )(?<!\bhave )(?<!\bonly )(?<!\bjust )(?<!exactly )\bone\b"
    r"(?![ -](?:hundred|half|third|and)\b)",
    re.I,
)
_ROOTS = frozenset("\\√π^")


def number_in(text: str) -> Statement:
    """Return the number that is the text or leads it, or is the only number in the text or after its last `is` or `=`."""
    for part in _beginnings(text):
        if read_number(part) is not None:
            return Statement(answer=part)
    flat = _in_digits(_SIGN_OUTSIDE.sub(r"\1-", flattened(text)))
    if is_expression(text) and not _ROOTS.isdisjoint(text) and not hides_value(flat):
        last = re.split("[=≈]", flat)[-1].strip()
        return Statement(answer=text if read_number(last) is None or _COMPARISON.search(flat) else last)
    if NEGATION.search(flat) or _COMPARISON.search(flat):
        return NOTHING
    if bold := _in_bold(flat):
        return Statement(answer=bold)
    items = split_items(flat)
    if len(items.items) > 1 and (items.brackets or all(read_number(item) is not None for item in items.items)):
        return SEVERAL
    found = _numbers(flat)
    for state in reversed(list(_STATES.finditer(flat)) if len(found) > 1 else []):
        tail = flat[state.end() :]
        if stated := _numbers(tail):
            answer = _leading(flat[: state.end()], tail, stated)
            return SEVERAL if answer is None else Statement(answer=answer)
    if len(found) > 1:
        return SEVERAL
    return next((Statement(answer=written) for written, start in found.values() if not _is_changed(flat[:start])), NOTHING)


def _is_changed(before: str) -> bool:
    """Return whether the words before a number make it a bound, a different number, or a side of an equation that gives no value."""
    return _BOUND.search(before) is not None or _OPERATION.search(before) is not None or hides_value(before)


def _in_bold(text: str) -> str | None:
    """Return the number that is the only bold text, unless the words around it change it."""
    marked = list(_BOLD.finditer(text))
    if len(marked) != 1 or read_number(marked[0][1]) is None:
        return None
    before, place = text[: marked[0].start()], marked[0].end()
    is_plain = not (_is_changed(before) or _LABEL.search(before) or _word_after(text, place))
    return marked[0][1] if is_plain else None


def _leading(before: str, tail: str, stated: dict[object, tuple[str, int]]) -> str | None:
    """Return the number that begins the text after an `is`, if other numbers follow only in a reason or in brackets."""
    if _is_changed(before):
        return None
    whole = next((part for part in _beginnings(tail) if read_number(part) is not None), None)
    written, start = next(iter(stated.values()))
    return whole or (written if start == 0 and len(stated) == 1 else None)


def _in_digits(text: str) -> str:
    """Return a sentence with `minus 5` as `-5`. Without digits, its number words become digits; `the red one` is no number."""
    has_digits = any("0" <= character <= "9" for character in text)
    return signed(text) if has_digits else in_digits(_ONE_AS_PRONOUN.sub("", text))


def _numbers(text: str) -> dict[object, tuple[str, int]]:
    """Return the numbers in a text as written, with their places, by value. A word that changes a number (`5 dozen`) belongs to it."""
    found: dict[object, tuple[str, int]] = {}
    year = _LEADING_YEAR.match(text)
    for match in _NUMBER.finditer(text, year.end() if year else 0):
        if _LABEL.search(text[: match.start()]):
            continue
        written = match[0] + _word_after(text, match.end())
        number = read_number(written)
        found[written if number is None else (number.value, number.is_percent)] = written, match.start()
    return found


def _word_after(text: str, place: int) -> str:
    """Return the text after a number up to a word that changes its value, else the next word if it is a unit in the table."""
    if factor := _FACTOR.match(text, place):
        return factor[0]
    following = _NEXT_WORDS.match(text, place)
    for number in (1, 2) if following else ():
        if following and following[number] and following[number].lower() in VALUE_WORDS | _COMPARING:
            has_noun = following[number].lower() == "fewer" and following[2] is not None
            return text[place : following.end(2 if has_noun else number)]
    word = _UNIT_WORD.match(text, place)
    is_preposition = word is not None and word[1] == "in" and text[word.end() : word.end() + 2].strip(" ").isalpha()
    return word[0] if word and known(word[1]) is not None and not is_preposition else ""


def _beginnings(text: str) -> list[str]:
    """Return the text, its first sentence, and the sentence without its reason and without a remark in brackets. The first clause follows
    if the rest of the text has no number."""
    found = [text.strip()]
    first = sentences(text)[0].strip()
    if ALTERNATIVE.search(text[len(first) :]) is None:
        found.append(first)
        if ALTERNATIVE.search(first) is None:
            found += [REASON.split(first, maxsplit=1)[0].strip(), _REMARK.sub("", first).strip()]
        clause = _CLAUSE_END.split(first, maxsplit=1)[0].strip()
        if not _numbers(text[len(clause) :]):
            found.append(clause)
    return list(dict.fromkeys(found))
