"""Infers the kind of an answer where the data do not name it."""

from collections.abc import Sequence

from ovt_ray.core.types import AnswerKind
from reward.verifier.lists import split_items
from reward.verifier.numbers import read_number
from reward.verifier.symbolic import is_expression
from reward.verifier.texts import plain, read_date, read_time

_TRUTHS = frozenset({"yes", "no", "true", "false"})
_MATHEMATICAL = frozenset("\\^=<>≤≥√π∞∪+/{}°±·×")


def infer_kind(gold: str, choices: Sequence[str]) -> AnswerKind:
    """Return the kind of a gold answer, by which answers are compared with it.

    A problem with choices is a choice. The other kinds follow in this order: yes or no, a number (with a unit or without), a `[list]` or a
    list of numbers, mathematics, and text. A time of day, a date and a single letter are text.
    """
    if choices:
        return AnswerKind.CHOICE
    words = plain(gold)
    if words in _TRUTHS:
        return AnswerKind.YESNO
    if (read_time(words) is not None and ":" in words) or read_date(words) is not None:
        return AnswerKind.TEXT
    if read_number(gold) is not None and "=" not in gold:
        return AnswerKind.NUMBER
    items = split_items(gold)
    if len(items.items) > 1 and not items.is_union:
        if items.brackets == "[]" and len(items.items) != 2:
            return AnswerKind.LIST
        if all(is_expression(item) and any(character.isdigit() for character in item) for item in items.items):
            return AnswerKind.LIST if _is_python_list(gold, items.brackets) else AnswerKind.LATEX
    if is_expression(gold) and not _MATHEMATICAL.isdisjoint(gold):
        return AnswerKind.LATEX
    return AnswerKind.TEXT


def _is_python_list(gold: str, brackets: str) -> bool:
    """Return whether the gold answer is a list in MathVista's form, such as `[2014, 2016]`: whole numbers that make no interval."""
    items = [read_number(item) for item in split_items(gold).items]
    values = [item.value for item in items if item is not None]
    return brackets == "[]" and len(values) == len(items) and all(value.denominator == 1 for value in values)
