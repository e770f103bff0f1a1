"""Splits a list, set, tuple or interval into its items."""

import re
from dataclasses import dataclass

from reward.verifier.clean import flattened

MAX_ITEMS = 100
_OPENING, _CLOSING = "([{", ")]}"
_SEPARATOR = re.compile(r",? and |,? or |, ?|; ?|∪| & ", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """The items of a list as written."""

    brackets: str
    """Opening and closing bracket around all items, such as `[]` or `[)`; empty if there are none."""
    items: tuple[str, ...]
    is_union: bool = False
    is_alternative: bool = False
    """Whether a separator was `or`. Such items are solutions of an equation, and no list."""


def split_items(text: str) -> Items:
    r"""Return the parts of a text between commas, semicolons, `and` and union signs that are in no inner bracket.

    A text without such a separator is a single item. `\{1, 2\}` has the brackets `{}`.
    """
    text = flattened(text).replace(r"\{", "{").replace(r"\}", "}").strip(" .")
    brackets = ""
    if text[:1] and text[0] in _OPENING and text[-1] in _CLOSING and _closes_last(text):
        brackets, text = text[0] + text[-1], text[1:-1].strip()
    pieces, separators = _split(text)
    return Items(
        brackets=brackets,
        items=tuple(piece.strip() for piece in pieces),
        is_union="∪" in separators,
        is_alternative=any("or" in separator for separator in separators),
    )


def _closes_last(text: str) -> bool:
    """Return whether the first bracket stays open until the last character."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth == 0:
            return place == len(text) - 1
    return False


def _split(text: str) -> tuple[list[str], list[str]]:
    """Return the pieces between separators outside of brackets, and these separators in lower case."""
    depths, depth = [], 0
    for character in text:
        depth += (character in _OPENING) - (character in _CLOSING)
        depths.append(depth)
    pieces: list[str] = []
    separators: list[str] = []
    start = 0
    for found in _SEPARATOR.finditer(text):
        if depths[found.start()] == 0 and len(pieces) < MAX_ITEMS:
            pieces.append(text[start : found.start()])
            start = found.end()
            separators.append(found[0].lower())
    return [*pieces, text[start:]], separators
