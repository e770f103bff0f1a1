r"""Removes the unit from an expression that is no plain number: `12\sqrt{3} cm`, `9\pi\text{ m}^2`."""

import re

from reward.verifier.clean import MAX_CHARS, flattened, tidy
from reward.verifier.units import is_unit, known

_MIN_UNKNOWN_LETTERS = 4
"""Fewest letters of a word that is a unit without being in the table. Shorter words may be products of variables."""
_TRAILING_UNIT = re.compile(r"(?P<value>.*[\d)}π°]) ?(?P<unit>[a-zA-Z]+(?: ?\^ ?\{?[23]\}?)?(?: units)?)")
_STYLED_UNIT = re.compile(
    r"(?P<value>.*[^\s\\])(?:\\[,;: ])* ?\\(?:text|mathrm|textrm|mbox)\{ ?(?P<unit>[a-zA-Z/ ]+)\}(?P<power>\^\{?[23]\}?)?\$?\.?"
)


def without_unit(text: str) -> str:
    """Return an expression without the plain unit after it. A single letter is a variable."""
    match = _TRAILING_UNIT.fullmatch(flattened(text))
    if match is None or not is_unit(match["unit"]) or len(match["unit"]) == 1:
        return text
    is_word = sum(map(str.isalpha, match["unit"])) >= _MIN_UNKNOWN_LETTERS
    return match["value"] if is_word or known(match["unit"]) is not None else text


def without_styled_unit(text: str) -> tuple[str, str]:
    r"""Return an expression without its unit in `\text{}`, and the unit, which is empty if there is none."""
    match = _STYLED_UNIT.fullmatch(tidy(text)) if "{" in text and len(text) <= MAX_CHARS else None
    unit = match["unit"].strip() + (match["power"] or "") if match else ""
    return (match["value"], unit) if match and unit and is_unit(unit) else (text, "")
