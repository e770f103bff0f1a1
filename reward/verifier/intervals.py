"""Rewrites inequalities of one unknown as intervals, and `±` as both values."""

import re

from reward.verifier.clean import flattened

_SIGN = re.compile(r"[<>≤≥]")
_LETTER = re.compile(r"(?<!\\)\b[a-zA-Zθ]")
_UNKNOWN = re.compile(r"[a-zA-Zθ]")
_OR = re.compile(r",? or |∪", re.IGNORECASE)
_BRACKETS = re.compile(r"[(\[][^()\[\]]{1,100},[^()\[\]]{1,100}[)\]]")


def is_interval(text: str) -> bool:
    """Return whether a flattened text is an interval or a union of intervals, judged by its brackets."""
    return all(_BRACKETS.fullmatch(part.strip()) is not None for part in text.split("∪"))


def are_inequalities(first: str, second: str) -> bool:
    """Return whether both texts are inequalities of the same unknown."""
    unknowns = [set(_LETTER.findall(text)) for text in (first, second) if _SIGN.search(text)]
    return len(unknowns) == 2 and unknowns[0] == unknowns[1] and len(unknowns[0]) == 1


def as_interval(text: str) -> str:
    """Return `-1 ≤ x < 4` as `[-1, 4)`, `x > 5` as `(5, ∞)` and `x < 1 or x > 2` as their union; any other text flattened."""
    flat = flattened(text)
    if not _SIGN.search(flat):
        return flat
    parts = [_one_interval(part) for part in _OR.split(flat)]
    return "∪".join(part for part in parts if part is not None) if None not in parts else flat


def both_signs(text: str) -> tuple[str, ...]:
    """Return the two values of a text with one `±`, else the text alone."""
    if text.count("±") != 1:
        return (text,)
    plus, minus = (text.replace("±", sign).strip() for sign in "+-")
    return plus.removeprefix("+").strip(), minus


def _one_interval(text: str) -> str | None:
    """Return the interval of an inequality or of a chain of two inequalities; None for any other text."""
    signs = _SIGN.findall(text)
    parts = [part.strip() for part in _SIGN.split(text)]
    if not all(parts) or len(signs) > 2 or "=" in text:
        return None
    if all(sign in ">≥" for sign in signs):
        parts, signs = parts[::-1], ["<" if sign == ">" else "≤" for sign in reversed(signs)]
    if not all(sign in "<≤" for sign in signs):
        return None
    if len(signs) == 1 and _UNKNOWN.fullmatch(parts[0]):
        return f"(-∞, {parts[1]}{_closing(signs[0])}"
    if len(signs) == 1 and _UNKNOWN.fullmatch(parts[1]):
        return f"{_opening(signs[0])}{parts[0]}, ∞)"
    if len(signs) == 2 and _UNKNOWN.fullmatch(parts[1]):
        return f"{_opening(signs[0])}{parts[0]}, {parts[2]}{_closing(signs[1])}"
    return None


def _opening(sign: str) -> str:
    return "[" if sign == "≤" else "("


def _closing(sign: str) -> str:
    return "]" if sign == "≤" else ")"
