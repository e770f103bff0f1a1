r"""Compares LaTeX expressions, equations, tuples, intervals, sets and lists.

Cheap paths come first: the same spelling, the same number, the same items. This file also refuses pairs that math-verify wrongly takes for
equal. Brackets decide whether order counts and whether ends belong to an interval. Names decide which unknown a value belongs to.
"""

import re
from dataclasses import replace

from reward.verifier.clean import flattened
from reward.verifier.intervals import are_inequalities, as_interval, both_signs, is_interval
from reward.verifier.lists import Items, split_items
from reward.verifier.matrices import Matrix, read_matrix, same_shape
from reward.verifier.measures import without_styled_unit, without_unit
from reward.verifier.numbers import MIN_ROUNDED_DIGITS, Number, read_number, rounds_to, same_number
from reward.verifier.symbolic import is_expression, same_by_algebra, value_of
from reward.verifier.texts import same_text
from reward.verifier.units import conversion

_MAX_DEPTH = 3
_NAME = re.compile(r"(?:\\?[a-zA-Z]+|[∠△θαβπ])[\w_{}' ∠△]{0,20}(?:\([\w, ]{1,20}\))?")
_BRACED_SINGLE = re.compile(r"\{(\w)\}")
_PLAIN_ROOT = re.compile(r"√ ?(\d+|[a-zA-Z])")
_NEEDLESS_BLANK = re.compile(r"(?<!\w)\s+|\s+(?!\w)")
_RATIO = re.compile(r"(?!.*[APap]\.)[\d\w\\{}()/+√^ .-]{1,40}(?::[\d\w\\{}()/+√^ .-]{1,40}){1,5}")
_POINT = re.compile(r"^[A-Z]'? ?=? ?(?=\([^()]{1,80},[^()]{1,80}\)$)")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+")
"""A text that is a number and also a list without brackets."""
_COMPARISON = re.compile(r"[=<>≤≥≠∈]")


def same_expression(given: str, gold: str, depth: int = 0) -> bool:
    """Return whether both expressions mean the same.

    A value may be given as `x = value` where the gold answer has no name or the same name. `(1, 2)` is not `[1, 2]`, and `{1, 2}` is
    `{2, 1}`. A bare `1, 2` is `2, 1`, like the solutions of an equation, but `(2, 1)` only in that order. A decimal with at least three
    digits after the point may stand for an irrational value or a fraction.
    """
    if read_number(given) is None and read_number(gold) is None:  # units of numbers are converted with them
        (given, unit), (gold, gold_unit) = without_styled_unit(given), without_styled_unit(gold)
        if conversion(unit, gold_unit) != 1:
            return False
        given, gold = _without(gold_unit, given), _without(unit, gold)
    matrix, gold_matrix = read_matrix(given), read_matrix(gold)
    if matrix is not None or gold_matrix is not None:
        return matrix is not None and gold_matrix is not None and depth < _MAX_DEPTH and _same_matrix(matrix, gold_matrix, depth)
    first, second = _without_membership(given), _without_membership(gold)
    if not first or not second:
        return False
    if canonical(first) == canonical(second):
        return read_number(second) is None or read_number(first) is not None  # `1, 200` is not 1,200
    if is_interval(first) or is_interval(second) or are_inequalities(first, second):
        first, second = as_interval(first), as_interval(second)
    (name, value), (gold_name, gold_value) = _named(first), _named(second)
    if name and gold_name and canonical(name) != canonical(gold_name):
        return _same_whole(first, second)
    number, gold_number = read_number(value), read_number(gold_value)
    if number is not None and gold_number is not None:
        return same_number(number, gold_number, None, "")
    items, gold_items = _items(value, number), _items(gold_value, gold_number)
    if len(items.items) > 1 or len(gold_items.items) > 1:
        return depth < _MAX_DEPTH and _same_items(items, gold_items, depth)
    if _RATIO.fullmatch(value) or _RATIO.fullmatch(gold_value):
        return depth < _MAX_DEPTH and _same_ratio(value, gold_value, depth)
    if _has_sides(value) is not _has_sides(gold_value):
        return _same_whole(first, second)
    if number is not None and number.decimals is not None and number.decimals >= MIN_ROUNDED_DIGITS:
        return _is_rounded(number, without_unit(gold_value))
    return _same_whole(without_unit(value), without_unit(gold_value))


def same_list(given: str, gold: str, precision: int | None = None) -> bool:
    """Return whether two lists have the same items in the same order, with any brackets. Only `{}` in gold frees the order."""
    items, gold_items = split_items(given), split_items(gold)
    if len(items.items) != len(gold_items.items) or items.is_alternative or _GROUPED.fullmatch(flattened(given)):
        return False
    if items.brackets in ("[)", "(]") and items.brackets != gold_items.brackets:
        return False  # an interval
    if gold_items.brackets == "{}":
        return _match_in_any_order(items.items, gold_items.items, 0)
    return all(_same_element(a, b, precision) for a, b in zip(items.items, gold_items.items, strict=True))


def canonical(text: str) -> str:
    """Return the expression without needless braces, and with white space only between letters or digits."""
    flat = flattened(text).replace(r"\{", "{").replace(r"\}", "}").replace("**", "^").replace("*", "·").replace("$", "")
    flat = flat.replace("\\lbrace", "{").replace("\\rbrace", "}").lstrip(" ,;").rstrip(" .,;")
    flat = _PLAIN_ROOT.sub(r"\\sqrt{\1}", flat).replace("infinity", "∞")
    return _BRACED_SINGLE.sub(r"\1", _NEEDLESS_BLANK.sub("", flat))


def _has_sides(text: str) -> bool:
    """Return whether the text is an equation or a comparison."""
    return _COMPARISON.search(text) is not None


def _without(unit: str, text: str) -> str:
    """Return a text without the other side's unit at its end: with that, the `m` of `10√3 m` is metres."""
    return text.strip(" $").removesuffix(f" {unit}") if unit else text


def _named(text: str) -> tuple[str, str]:
    """Return the name and the value of `name = value`, or an empty name and the whole text."""
    if len(_COMPARISON.findall(text)) != 1 or "=" not in text:
        return "", text
    name, _, value = text.partition("=")
    return (name.strip(), value.strip()) if _NAME.fullmatch(name.strip()) and value.strip() else ("", text)


def _without_membership(text: str) -> str:
    r"""Return the flattened text without a leading `x \in` or the name of a point."""
    flat = _POINT.sub("", flattened(text))
    name, sign, rest = flat.partition("∈")
    return rest.strip() if sign and _NAME.fullmatch(name.strip()) else flat


def _items(value: str, number: Number | None) -> Items:
    """Return the items of a value, with both values of `±` apart. A number such as `1,024` is a single item."""
    if number is not None:
        return Items(brackets="", items=(value,))
    items = split_items(value)
    return replace(items, items=sum(map(both_signs, items.items), ())) if items.brackets in ("", "{}") else items


def _same_matrix(matrix: Matrix, gold: Matrix, depth: int) -> bool:
    """Return whether two matrices have the same shape and entries."""
    return same_shape(matrix, gold) and all(
        _same_item(a, b, depth) for row, gold_row in zip(matrix, gold, strict=True) for a, b in zip(row, gold_row, strict=True)
    )


def _same_ratio(ratio: str, gold: str, depth: int) -> bool:
    """Return whether two ratios have the same terms in the same order."""
    terms, gold_terms = ratio.split(":"), gold.split(":")
    return len(terms) == len(gold_terms) and all(_same_item(a, b, depth) for a, b in zip(terms, gold_terms, strict=True))


def _same_items(items: Items, gold: Items, depth: int) -> bool:
    """Return whether two lists of an expression agree in brackets, number of items, and items."""
    if len(items.items) != len(gold.items) or items.is_union is not gold.is_union:
        return False
    if items.brackets != gold.brackets and (gold.brackets, items.brackets) not in (("()", ""), ("", "()"), ("{}", ""), ("", "{}")):
        return False
    names = [name for name, _ in map(_named, items.items) if name]
    if gold.brackets == "()" and names != sorted(names):
        return False  # `y = 3, x = -2` is the point (-2, 3)
    if gold.brackets in ("{}", "") and items.brackets in ("{}", ""):
        return _match_in_any_order(items.items, gold.items, depth)
    return all(_same_item(a, b, depth) for a, b in zip(items.items, gold.items, strict=True))


def _match_in_any_order(items: tuple[str, ...], gold: tuple[str, ...], depth: int) -> bool:
    """Return whether each item has an equal of its own among the gold items."""
    left = list(gold)
    for item in items:
        place = next((place for place, other in enumerate(left) if _same_item(item, other, depth)), None)
        if place is None:
            return False
        del left[place]
    return True


def _same_element(given: str, gold: str, precision: int | None) -> bool:
    """Return whether two items of a list, which may be texts, are the same."""
    number, gold_number = read_number(given), read_number(gold)
    if number is not None and gold_number is not None:
        return same_number(number, gold_number, precision, "")
    return _same_item(given, gold, 0) or (bool(given.strip("\"' ")) and same_text(given.strip("\"' "), gold.strip("\"' ")))


def _same_item(given: str, gold: str, depth: int) -> bool:
    """Return whether two items of lists are the same."""
    given, gold = given.strip("\"' "), gold.strip("\"' ")
    return bool(given) and same_expression(given, gold, depth + 1)


def _same_whole(given: str, gold: str) -> bool:
    """Return whether two texts without items are the same expression. Texts that are no mathematics are compared as texts."""
    if canonical(given) == canonical(gold):
        return True
    if not is_expression(given) or not is_expression(gold):
        return same_text(given, gold)
    if _has_sides(given) is not _has_sides(gold) or (":" in given) is not (":" in gold):
        return False
    if canonical(given).casefold() == canonical(gold).casefold():
        return False  # sympy's symbols are compared without case by math-verify
    return same_by_algebra(given, gold)


def _is_rounded(number: Number, gold: str) -> bool:
    """Return whether a decimal is the rounding of the gold expression's value."""
    value = value_of(gold) if is_expression(gold) else None
    return value is not None and number.decimals is not None and rounds_to(value, number.decimals, number.value)
