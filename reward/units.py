"""Units of a number: which words can be one, which change the value, and which are converted into each other."""

import re
from fractions import Fraction

MAX_WORDS = 5
_VALUE_WORDS = """
    and or to not nor plus minus times point over by less more maybe squared cubed mod pi i e x y bn mn cent cents
    half halves third thirds quarter quarters fifth fifths tenth tenths hundredth hundredths
    dozen hundred hundreds thousand thousands million millions billion billions trillion trillions
    zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy eighty ninety
    but versus vs is are was were equals equal if because since than st nd rd th am pm remainder r so then thus therefore
"""
_NOT_UNITS = frozenset(_VALUE_WORDS.split())
"""Words that change the value they follow, so that `5 million` is not `5`, or that go on with a sentence."""
_UNIT_TEXT = re.compile(
    r"[A-Za-zµμΩÅ°'$€£¥%][A-Za-zµμΩÅ°'$€£¥%/·.,()\- ]*(?:(?:(?<=[A-Za-z])[23](?!\w)| ?\^\{?-?[123]\}?(?!\w))[A-Za-z/·.() ]*){0,4}"
)

_SCALES: dict[str, dict[str, str]] = {
    "length": {
        "1/1000000": "µm um micrometer micrometers micron microns",
        "1/1000": "mm millimeter millimeters millimetre millimetres",
        "1/100": "cm centimeter centimeters centimetre centimetres",
        "1": "m meter meters metre metres",
        "1000": "km kilometer kilometers kilometre kilometres",
        "254/10000": "inch inches",
        "3048/10000": "ft foot feet",
        "9144/10000": "yd yard yards",
        "1609344/1000": "mile miles mi",
    },
    "mass": {
        "1/1000": "mg milligram milligrams",
        "1": "g gram grams",
        "1000": "kg kilogram kilograms kgs",
        "1000000": "tonne tonnes",
        "45359237/100000": "lb lbs pound pounds",
        "45359237/1600000": "oz ounce ounces",
    },
    "volume": {"1/1000": "ml milliliter milliliters millilitre millilitres", "1": "l liter liters litre litres"},
    "time": {
        "1/1000": "ms millisecond milliseconds",
        "1": "s sec secs second seconds",
        "60": "min mins minute minutes",
        "3600": "h hr hrs hour hours",
        "86400": "day days",
        "604800": "week weeks",
    },
    "month": {"1": "month months", "12": "year years yr yrs"},
    "dollar": {"1": "$ usd dollar dollars", "1/100": "cent cents ¢"},
    "euro": {"1": "€ eur euro euros"},
    "pound sterling": {"1": "£ gbp"},
    "angle": {"1": "° degree degrees deg"},
    "radian": {"1": "rad radian radians"},
    "celsius": {"1": "°c celsius"},
    "fahrenheit": {"1": "°f fahrenheit"},
    "kelvin": {"1": "kelvin kelvins"},
}
_TABLE = {
    name: (dimension, Fraction(factor)) for dimension, row in _SCALES.items() for factor, names in row.items() for name in names.split()
}
_POWER = re.compile(r"\^?\{?([23])\}?$")
_POWER_WORDS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_SINGLE = frozenset("gmslhLNVWJACFTHµμΩÅ°$€£¥'")
"""Units of one character; any other single letter is a variable, or `K` and `M`, which may scale."""


def is_unit(text: str) -> bool:
    """Return whether the text after a number can be its unit: few words, and none that changes the value."""
    text = text.strip()
    if not text:
        return True
    if len(text) > 60 or not _UNIT_TEXT.fullmatch(text):
        return False
    if known(text) is not None:
        return True
    words = [word for word in (word.strip(".,()") for word in re.split(r"[ \-/]+", text)) if word]
    letters = [_POWER.sub("", word) for word in words]
    if any(
        len(letter) == 1 and letter not in _SINGLE for word, letter in zip(words, letters, strict=True) if word != "a" or len(words) == 1
    ):
        return False
    return len(words) <= MAX_WORDS and _NOT_UNITS.isdisjoint(word.lower() for word in words)


def is_part(text: str) -> bool:
    """Return whether a unit is a part of the one that goes without saying: cents where nobody asked for them are no dollars."""
    found = known(text)
    return found is not None and found[0] == "dollar" and found[2] != 1


def known(text: str) -> tuple[str, int, Fraction] | None:
    """Return dimension, power and factor to the dimension's base unit of a unit in the table; None for any other."""
    if text.strip() == "M":
        return None
    words = text.lower().replace("-", " ").strip(" .,()").split()
    power = 1
    for word in [word for word in (words[:1] + words[-1:]) if word.strip(".") in _POWER_WORDS and len(words) > 1]:
        power = _POWER_WORDS[word.strip(".")]
        words.remove(word)
    if len(words) == 2 and words[0] in ("degree", "degrees") and words[1] in ("celsius", "fahrenheit"):
        words = words[1:]
    if len(words) == 2 and words[0] == "°":
        words = ["".join(words)]
    if len(words) != 1:
        return None
    name = words[0]
    if power == 1 and (exponent := _POWER.search(name)) and len(name) > 1:
        power, name = int(exponent[1]), name[: exponent.start()]
    found = _TABLE.get(name.strip(".")) or _TABLE.get(name)
    return (found[0], power, found[1] ** power) if found else None


def conversion(given: str, wanted: str) -> Fraction | None:
    """Return what a value in `given` is multiplied with to be one in `wanted`; None if the units contradict each other.

    A unit that is missing or not in the table says nothing: the question has named it.
    """
    given_head, given_rest = _split_rate(given)
    wanted_head, wanted_rest = _split_rate(wanted)
    if given_rest and wanted_rest and given_rest != wanted_rest and known(given_rest) and known(wanted_rest):
        return None
    first, second = known(given_head), known(wanted_head)
    if first is None or second is None:
        return Fraction(1)
    if first[:2] != second[:2]:
        return None
    return first[2] / second[2]


def _split_rate(unit: str) -> tuple[str, str]:
    """Return the unit itself and what it is counted per, as in `minutes per day` or `km/h`."""
    head, _, rest = unit.lower().replace("/", " per ").replace(" a ", " per ").partition(" per ")
    return head.strip(" ,"), rest.strip(" .").removesuffix("s")
