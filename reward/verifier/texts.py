"""Compares short texts: names, phrases, times and dates."""

import re
import unicodedata

from reward.verifier.clean import flattened

_BEFORE, _AFTER = " ,;:\"'`*_([{", " .,;:!?\"'`*_)]}"
"""Punctuation around a text that has no meaning. A point before the text has one (`.5`)."""
_ABBREVIATION = re.compile(r"(?<=\b[a-z])\.(?=[a-z]\b|$)")
_POINT_IN_NAME = re.compile(r"(?<![^ ])([a-z]{2,4})\.(?= [a-z])")
_SUBSCRIPT = re.compile(r"(?<=[a-z])_ ?\{?(\d+)\}?")
_DECADE = re.compile(r"(?<=\d0)'(?=s)")
_TO = re.compile(r"(?<=\d) ?(?: to |:) ?(?=\d)")
_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")
_MONTHS = "january february march april may june july august september october november december"
_MONTH_OF = {name: place for place, month in enumerate(_MONTHS.split(), 1) for name in (month, month[:3])} | {"sept": 9}
_TIME = re.compile(
    r"(?:at )?(\d{1,2})(?:[:.](\d{2}))?(?::(\d{2}))? ?(?:(a|p)\.? ?m\.?|(o'clock)|(?:hours|hrs|h)|)(?: in the (morning|afternoon|evening))?"
)
_DURATION = re.compile(r"(?:(\d{1,4}) ?(?:hours?|hrs?|h))?(?:,? and |,? )?(?:(\d{1,4}) ?(?:minutes?|mins?|m))?")
_DATE = re.compile(r"(\d{1,4})[/.\-](\d{1,2})[/.\-](\d{1,4})")
_MONTH_FIRST = re.compile(r"([a-z]{3,9})\.? (\d{1,2})(?:st|nd|rd|th)?(?:,? (\d{4}))?")
_DAY_FIRST = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?(?: of)? ([a-z]{3,9})\.?(?:,? (\d{4}))?")
_MONTH_YEAR = re.compile(r"([a-z]{3,9})\.?,? (?:of )?(\d{4}|'\d{2})")
_LAST_SHORT_YEAR = 69
"""Latest year of this century that two digits stand for, as in C's `strptime`."""


def same_text(given: str, gold: str) -> bool:
    """Return whether both texts are the same, or the same time of day, date, duration or ratio in other words.

    Case, punctuation around, leading articles, hyphens and white space do not matter.
    """
    first, second = key(given), key(gold)
    if first == second:
        return True
    if len(first) > 40 or not any("0" <= character <= "9" for character in first + second):
        return first in ("noon", "midnight") and same_time(first, second)
    if ":" in second and _TO.sub(":", first) == _TO.sub(":", second):
        return True
    return same_time(first, second) or same_date(first, second) or _same_duration(first, second)


def plain(text: str) -> str:
    """Return the text without case, surrounding punctuation and runs of white space. A text of punctuation alone keeps it."""
    spaced = unicodedata.normalize("NFC", flattened(text)).casefold()
    words = spaced.lstrip(_BEFORE).rstrip(_AFTER)
    for opening, closing in ("{}", "()", "[]"):
        words += closing * (words.count(opening) - words.count(closing))  # the brackets of `f(x)` are no punctuation around it
    return words or spaced


def key(text: str) -> str:
    """Return the plain text without its leading article, and with blanks for hyphens in words.

    `U.S.` becomes `us`, `St. Louis` `st louis`, `H_2O` `h2o`, and `&` `and`.
    """
    words = _ABBREVIATION.sub("", plain(text)).replace(" & ", " and ")
    words = _DECADE.sub("", _SUBSCRIPT.sub(r"\1", _POINT_IN_NAME.sub(r"\1", words)))
    return without_article(_HYPHEN.sub(" ", words))


def without_article(words: str) -> str:
    """Return a plain text without its leading article."""
    first, _, rest = words.partition(" ")
    return rest if rest and first in ("a", "an", "the") else words


def same_time(given: str, gold: str) -> bool:
    """Return whether both are the same time of day. An answer may leave out the half of the day only if the gold answer does."""
    first, second = read_time(given), read_time(gold)
    if first is None or second is None:
        return False
    (seconds, has_half), (gold_seconds, gold_has_half) = first, second
    if gold_has_half:
        return has_half and seconds == gold_seconds
    return seconds % 43200 == gold_seconds % 43200 if has_half else seconds == gold_seconds


def read_time(words: str) -> tuple[int, bool] | None:
    """Return the seconds since midnight, and whether the half of the day is known. None if the plain text is no time of day."""
    if (half_day := words.removeprefix("12:00 ").removeprefix("12 ")) in ("noon", "midnight"):
        return (43200 if half_day == "noon" else 0), True
    match = _TIME.fullmatch(words)
    if match is None:
        return None
    hour, minute, second = int(match[1]), int(match[2] or 0), int(match[3] or 0)
    half = match[4] or {"morning": "a", "afternoon": "p", "evening": "p"}.get(match[6] or "")
    if hour > 23 or minute > 59 or second > 59 or (half and not 0 < hour <= 12) or not (match[2] or half or match[5]):
        return None
    is_known = bool(half) or hour > 12 or hour == 0
    hour = hour % 12 + 12 * (half == "p") if half else hour
    return hour * 3600 + minute * 60 + second, is_known


def _same_duration(given: str, gold: str) -> bool:
    """Return whether both are the same number of hours and minutes."""
    matches = [_DURATION.fullmatch(words) for words in (given, gold)]
    minutes = [60 * int(match[1] or 0) + int(match[2] or 0) for match in matches if match and (match[1] or match[2])]
    return len(minutes) == 2 and minutes[0] == minutes[1]


def same_date(given: str, gold: str) -> bool:
    """Return whether both are the same calendar date. Where two readings are possible, the month comes first."""
    first, second = read_date(given), read_date(gold)
    return first is not None and first == second


def read_date(words: str) -> tuple[int, int, int] | None:
    """Return year (0 if missing), month and day (0 if missing) of a plain text; None if it is no date."""
    if match := _DATE.fullmatch(words):
        a, b, c = (int(part) for part in match.groups())
        if len(match[1]) == 4:
            return a, b, c
        if len(match[3]) not in (2, 4):
            return None
        month, day = (b, a) if a > 12 else (a, b)
        return (c if c > 99 else 2000 + c), month, day
    if match := _MONTH_FIRST.fullmatch(words):
        return (int(match[3] or 0), _MONTH_OF[match[1]], int(match[2])) if match[1] in _MONTH_OF else None
    if match := _DAY_FIRST.fullmatch(words):
        return (int(match[3] or 0), _MONTH_OF[match[2]], int(match[1])) if match[2] in _MONTH_OF else None
    if match := _MONTH_YEAR.fullmatch(words):
        year = int(match[2].strip("'"))
        century = 0 if year > 99 else 2000 if year <= _LAST_SHORT_YEAR else 1900
        return (century + year, _MONTH_OF[match[1]], 0) if match[1] in _MONTH_OF else None
    return None
