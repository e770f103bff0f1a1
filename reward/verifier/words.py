"""Rewrites numbers in words as digits: `twenty-four` as `24`, `one and a half` as `1 1/2`."""

import re

_ONES = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
"""
_VALUES = {word: value for value, word in enumerate(_ONES.split())}
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_PARTS = {"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}
_WORD = "|".join([*_VALUES, *_TENS])
_DENOMINATOR = "|".join(f"{name}s?" if name[-1] != "s" else name for name in _PARTS)
_SPELLED = re.compile(
    rf"(?<![\w.,/-])(?P<sign>(?:negative|minus) )?(?P<first>{_WORD})(?:[- ](?P<second>{_WORD}))?"
    rf"(?P<hundred> hundred(?: and)?(?: (?P<tens>{_WORD})(?:[- ](?P<ones>{_WORD}))?)?)?"
    rf"(?:(?P<and> and (?:an? |one ))?(?P<half>half|third|quarter)\b|[- ](?P<part>{_DENOMINATOR}))?(?![\w-])",
    re.IGNORECASE,
)
_SIGN = re.compile(r"(?<![\d)] )\b(?:negative|minus) (?=[$\d.])", re.IGNORECASE)


def in_digits(text: str) -> str:
    """Return the text with its numbers up to 999 in digits. A run of words that is no such number is unchanged."""
    return signed(_SPELLED.sub(_digits, text))


def signed(text: str) -> str:
    """Return the text with `minus 5` and `negative 5` as `-5`. A difference such as `8 minus 5` is unchanged."""
    return _SIGN.sub("-", text)


def _digits(found: re.Match[str]) -> str:
    """Return a number in words as digits."""
    value = _below_hundred(found["first"], found["second"])
    if value is None or (found["half"] and not found["and"]):
        return found[0]
    if found["hundred"]:
        rest = _below_hundred(found["tens"], found["ones"])
        if rest is None or not 0 < value < 10:
            return found[0]
        value = 100 * value + rest
    sign = "-" if found["sign"] else ""
    if found["half"]:
        return f"{sign}{value} 1/{_PARTS[found['half'].lower()]}"
    if found["part"]:
        name = found["part"].lower()
        return f"{sign}{value}/{_PARTS.get(name) or _PARTS[name.removesuffix('s')]}"
    return f"{sign}{value}"


def _below_hundred(first: str | None, second: str | None) -> int | None:
    """Return the value of a single word, or of two such as `twenty` and `four`. 0 without words, None if they make no number."""
    if first is None:
        return 0
    head = first.lower()
    if second is None:
        return _TENS.get(head, _VALUES.get(head))
    tail = _VALUES.get(second.lower(), 0)
    return _TENS[head] + tail if head in _TENS and 0 < tail < 10 else None
