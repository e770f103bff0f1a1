"""Reads a number exactly from a short answer, and compares two numbers by the benchmark's rule."""

import functools
import re
from dataclasses import dataclass, replace
from fractions import Fraction

from reward.verifier.clean import flattened
from reward.verifier.equations import gives_value
from reward.verifier.units import conversion, is_part, is_unit
from reward.verifier.words import in_digits

MAX_NUMBER_CHARS = 100
"""Upper bound on the characters of a number with its unit. It bounds the integers that are built."""
MIN_ROUNDED_DIGITS = 3
"""Fewest decimals that can stand for a fraction, as in TabMWP, which compares three."""

_DECADE = re.compile(r"(?:1[5-9]|20)\d0'?s", re.I)
_HEDGE = re.compile(r"(?:(?:about|approximately|approx\.?|around|roughly|exactly|only|equals|is|a total of) |[≈=~] ?)+", re.I)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_EQUALS = re.compile("[=≈]")
_LEFT_SIDE = re.compile(r"([^=≈]{1,120})[=≈] ?")
_NUMBER = re.compile(
    r"""
    (?P<sign>-|\+|)\ ?(?P<currency>(?:US)?\$|[€£¥]|USD\ |)\ ?(?P<inner_sign>(?<=[$€£])-|)  # -5, -$5, $-5
    (?:(?P<whole>\d{1,6})(?:\ (?:and\ )?|-)(?=\d{1,4}\ ?/\ ?\d))?                             # 2 of 2 1/2
    (?P<value>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)                                # 1,522.81  84  5.  .5
    (?:\ ?/\ ?(?P<divisor>0*[1-9]\d*(?:\.\d+)?(?![\d.]))                                     # 3/10
      |(?:[eE](?P<e>[-+]?\d{1,2})(?!\d)|\ ?[×x*·]\ ?10\ ?\^\ ?[{(]?(?P<power>[-+]?\d{1,2})[)}]?(?!\d)))?  # 1.2e3, 1.2 × 10^3
    (?P<gap>\ ?)(?P<percent>%|percent\b|per\ cent\b|percentage\ points?\b|)
    \ ?(?P<scale>(?:thousand|million|billion|trillion)\b|)
    (?P<unit>.*)
    """,
    re.VERBOSE | re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """An exact value, and the form in which it was written."""

    value: Fraction
    decimals: int | None
    """Number of digits after the point; None for a fraction or a power of ten."""
    is_percent: bool
    unit: str
    """Unit after the number or currency before it; empty if there is none."""
    is_scaled: bool = False
    """Whether a word such as `million` is in the value."""


@functools.lru_cache(maxsize=4096)
def read_number(text: str) -> Number | None:
    """Return the number of a text that is a single number, with its unit; None for any other text.

    `x = 5`, `2 + 3 = 5` and `about 5` are 5; nothing is evaluated.
    """
    if len(text) > 4 * MAX_NUMBER_CHARS:
        return None
    flat = flattened(text)
    text = in_digits(_without_name(flat.strip(" \"'" if flat[:1] in ("'", '"') else " ")))  # `60'` has a unit
    if len(text) > MAX_NUMBER_CHARS or not any("0" <= character <= "9" for character in text) or _DECADE.fullmatch(text):
        return None
    text = _without_brackets(text.rstrip(" ,;").removesuffix(".").rstrip())
    match = _NUMBER.fullmatch(text)
    return _number(match) if match else None


def same_number(given: Number, gold: Number, precision: int | None, unit: str) -> bool:
    """Return whether both are the same number.

    Values are compared exactly, after converting the answer's unit to the gold answer's unit (or to `unit`). Three roundings are allowed:
    - With a precision, an answer with more decimals is rounded to it. Fewer decimals must be exact, and so must whole numbers (a
      precision of 0).
    - A fraction may be written as its rounding to three or more decimals (`0.333` for 1/3, not `0.33`), as TabMWP compares.
    - A fraction may be given where the gold answer is such a rounding.
    A percent sign on only one side is a mere unit (`40%` for 40). But a plain side below 1 is itself a share (`40%` for 0.4, not `0.4%`).
    A share above one may be either (`150%` for 1.5), but no whole number (`200%` for 2).
    """
    scale = next((scale for word, scale in _SCALES.items() if word in unit.lower()), 1)
    gold = gold if gold.is_scaled else replace(gold, value=gold.value * scale)
    given = given if given.is_scaled or given.value == gold.value else replace(given, value=given.value * scale)
    wanted = gold.unit or unit
    if not wanted and is_part(given.unit):
        return False
    factor = conversion(given.unit, wanted)
    if factor is None:
        return False
    given = replace(given, value=given.value * factor)
    if gold.is_percent == given.is_percent:
        return _agree(given.value, given.decimals, gold, precision)
    return _agree_by_percent(given, gold, precision)


def _agree_by_percent(given: Number, gold: Number, precision: int | None) -> bool:
    """Return whether a number and a percentage agree, either as a share or with the sign as a mere unit."""
    plain, moved = (gold.value, 2) if given.is_percent else (given.value, -2)
    share = given.value / 100 if given.is_percent else given.value * 100
    share_decimals = None if given.decimals is None else max(0, given.decimals + moved)
    if 0 < abs(plain) < 1:
        return _agree(share, share_decimals, gold, precision)
    return _agree(given.value, given.decimals, gold, precision) or (share == gold.value and plain.denominator > 1)


def _agree(value: Fraction, decimals: int | None, gold: Number, precision: int | None) -> bool:
    """Return whether a value with this number of decimals stands for the gold value under the rules of `same_number`."""
    if value == gold.value:
        return True
    if precision:
        return (decimals is None or decimals > precision) and rounds_to(value, precision, gold.value)
    if gold.decimals is None and decimals is not None:
        return decimals >= MIN_ROUNDED_DIGITS and gold.value.denominator > 1 and rounds_to(gold.value, decimals, value)
    if decimals is None and gold.decimals is not None:
        return gold.decimals >= MIN_ROUNDED_DIGITS and value.denominator > 1 and rounds_to(value, gold.decimals, gold.value)
    return False


def rounds_to(value: Fraction, digits: int, rounded: Fraction) -> bool:
    """Return whether rounding to `digits` decimals gives `rounded`, with halves rounded to even or away from zero."""
    scaled = value * 10 ** max(0, min(digits, 30))
    target = rounded * 10 ** max(0, min(digits, 30))
    half_up = int(abs(scaled) + Fraction(1, 2)) * (-1 if scaled < 0 else 1)
    return target in (round(scaled), half_up)


def _without_name(text: str) -> str:
    """Return the text without a leading name or arithmetic (`x =`, `2 + 3 =`) and without `about`. A comparison stays whole."""
    left = _LEFT_SIDE.match(text)
    if left and gives_value(left[1]) and not any(sign in text for sign in "<>≤≥≠") and not _EQUALS.search(text, left.end()):
        text = text[left.end() :]
    hedge = _HEDGE.match(text)
    return text[hedge.end() :] if hedge else text


def _without_brackets(text: str) -> str:
    """Return the text without round or curly brackets around all of it."""
    if text[:1] == "(" and text[-1:] == ")" and not any(bracket in text[1:-1] for bracket in "(),"):
        return text[1:-1].strip()
    return text


def _number(match: re.Match[str]) -> Number | None:
    """Return the number of a match; None if a text follows that is no unit."""
    unit, currency = match["unit"].strip(), match["currency"].strip()
    if unit and not (match["gap"] or match["percent"] or match["scale"] or _may_touch(unit)):
        return None
    if not is_unit(unit) or (match["whole"] and match["whole"].startswith("0")) or (match["percent"] and currency):
        return None
    written = match["value"].replace(",", "").removesuffix(".")
    value = Fraction(written)
    if match["divisor"]:
        value /= Fraction(match["divisor"])
    if match["whole"]:
        if not match["divisor"] or "." in written:
            return None
        value += int(match["whole"])
    power = match["e"] or match["power"]
    if power:
        value *= Fraction(10) ** int(power)
    scale = _SCALES.get(match["scale"].lower(), 1)
    is_negative = "-" in match["sign"] + match["inner_sign"]
    decimals = None if match["divisor"] or power else len(written.partition(".")[2])
    return Number(
        value=(-value if is_negative else value) * scale,
        decimals=None if scale > 1 else decimals,
        is_percent=bool(match["percent"]),
        unit=unit or currency.replace("US$", "$"),
        is_scaled=scale > 1,
    )


def _may_touch(unit: str) -> bool:
    """Return whether a unit can follow its number without a blank: a sign, or letters that are no factor (`5cm`, not `5x`)."""
    return not unit[0].isalpha() or len(unit) > 1 or unit in "gmslLhVNJWAKCF"
