"""Units of a number: words that can be a unit, words that change the value, and conversions between units."""

import re
from fractions import Fraction

MAX_WORDS = 5
_VALUE_WORDS = """
    lakh lakhs crore crores kilo mega score gross tens nines zeros digits factorial
    plus minus times point squared cubed mod bn mn bc bce bps percentile
    half halves third thirds quarter quarters fifth fifths sixth sixths eighth eighths tenth tenths
    hundredth hundredths thousandth thousandths
    dozen dozens hundred hundreds thousand thousands million millions billion billions trillion trillions
"""
VALUE_WORDS = frozenset(_VALUE_WORDS.split())
"""Words that change the number before them, so that `5 million` is not `5`."""
_OTHER_WORDS = """
    and or to not nor over by less more below maybe wrong pi i e x y cent cents
    zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy eighty ninety
    but versus vs is are was were equals equal if because since than st nd rd th am pm a.m p.m remainder r so then thus therefore
"""
_NOT_UNITS = VALUE_WORDS | frozenset(_OTHER_WORDS.split())
"""Words that are no units: they change the value, or continue a sentence."""
_UNIT_TEXT = re.compile(
    r"[A-Za-zµμΩÅ°'$€£¥%¢][A-Za-zµμΩÅ°'$€£¥%¢/·.,()\- ]*(?:(?:(?<=[A-Za-z])[23](?!\w)| ?\^\{?-?[123]\}?(?!\w))[A-Za-z/·.() ]*){0,4}"
)

_SCALES: dict[str, dict[str, str]] = {
    "length": {
        "1/1000000": "µm um micrometer micrometers micron microns",
        "1/1000": "mm millimeter millimeters millimetre millimetres",
        "1/100": "cm centimeter centimeters centimetre centimetres",
        "1": "m meter meters metre metres",
        "1000": "km kilometer kilometers kilometre kilometres",
        "254/10000": "in inch inches",
        "3048/10000": "ft foot feet '",
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
    "ton": {"1": "ton tons"},
    "volume": {"1/1000": "ml milliliter milliliters millilitre millilitres", "1": "l liter liters litre litres"},
    "customary volume": {"1": "cup cups", "2": "pint pints pt", "4": "quart quarts qt", "16": "gallon gallons gal"},
    "acre": {"1": "acre acres"},
    "hectare": {"1": "hectare hectares ha"},
    "time": {
        "1/1000": "ms millisecond milliseconds",
        "1": "s sec secs second seconds",
        "60": "min mins minute minutes",
        "3600": "h hr hrs hour hours",
        "86400": "day days",
        "604800": "week weeks",
    },
    "month": {"1": "month months", "12": "year years yr yrs", "120": "decade decades", "1200": "century centuries"},
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
_RATES = {"mph": "miles/hour", "kph": "km/h", "kmph": "km/h", "kmh": "km/h", "mps": "m/s", "fps": "ft/s"}
_POWER = re.compile(r"\^?\{?([23])\}?$")
_POWER_WORDS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_SINGLE = frozenset("gmslhLNVWJACFTHµμΩÅ°$€£¥¢'")
"""Units of a single character. Any other single letter is a variable, or `K` or `M`, which may scale."""


def is_unit(text: str) -> bool:
    """Return whether the text after a number can be its unit: it has few words, and no word that changes the value."""
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
    if words and words[-1].lower() == "fewer":
        return False  # a comparison without a noun; `5 fewer people` has it
    return len(words) <= MAX_WORDS and _NOT_UNITS.isdisjoint(word.lower() for word in words)


def is_part(text: str) -> bool:
    """Return whether a unit is a part of the unit that is taken for granted: unrequested cents are no dollars."""
    found = known(text)
    return found is not None and found[0] == "dollar" and found[2] != 1


def known(text: str) -> tuple[str, int, Fraction] | None:
    """Return dimension, power and factor to the dimension's base unit for a unit in the table; None for any other unit."""
    if text.strip() == "M":
        return None
    words = text.lower().replace("-", " ").replace(" ^", "^").strip(" .,()").split()
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


def same_thing(given: str, wanted: str) -> bool:
    """Return whether two units may be the same: either is missing or in the table, or both name the same thing (`red apple`, `apples`)."""
    if not given or not wanted or known(given) is not None or known(wanted) is not None:
        return True
    return _stem(given.lower().split()[-1]) == _stem(wanted.lower().split()[-1])


def conversion(given: str, wanted: str) -> Fraction | None:
    """Return the factor from a value in `given` to a value in `wanted`; None if the units contradict each other.

    A unit that is missing or not in the table contradicts nothing, because the question has named it.
    """
    (given_head, given_rest), (wanted_head, wanted_rest) = _split_rate(given), _split_rate(wanted)
    if given_rest and wanted_rest and _stem(given_head) == _stem(wanted_rest) and _stem(given_rest) == _stem(wanted_head):
        return None  # tickets per month are not months per ticket
    head, rest = _factor(given_head, wanted_head), _factor(given_rest, wanted_rest)
    return None if head is None or rest is None else head / rest


def _factor(given: str, wanted: str) -> Fraction | None:
    """Return the factor between two units that are no rates. It is 1 if either is not in the table, None if they contradict each other."""
    first, second = known(given), known(wanted)
    if first is None or second is None:
        return Fraction(1)
    return first[2] / second[2] if first[:2] == second[:2] else None


def _split_rate(unit: str) -> tuple[str, str]:
    """Return the unit and its denominator, as in `minutes per day`, `km/h` or `mph`."""
    unit = _RATES.get(unit.lower().strip(" ."), unit)
    head, _, rest = unit.lower().replace("/", " per ").replace(" a ", " per ").partition(" per ")
    return head.strip(" ,"), rest.strip(" .")


def _stem(word: str) -> str:
    """Return a word without the ending of its plural."""
    return word.removesuffix("s")
