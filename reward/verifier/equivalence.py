"""Compares an extracted answer with the gold answer, by the kind of the problem.

Where a reading is doubtful the answer is wrong: reinforcement learning learns a false accept, and a false reject only slows it.
Cheap exact paths come first, and an answer beyond MAX_CHARS is always wrong. Only mathematics that is neither spelt like the gold answer
nor a number goes to a computer algebra system (`reward/verifier/symbolic.py`), which may take long.
"""

import re
from dataclasses import replace

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import AnswerKind, Problem
from reward.verifier.choices import find_choice
from reward.verifier.clean import MAX_CHARS, flattened, is_balanced, tidy
from reward.verifier.equations import hides_value
from reward.verifier.expressions import canonical, same_expression, same_list
from reward.verifier.numbers import Number, read_number, rounds_to, same_number
from reward.verifier.symbolic import is_expression, same_by_algebra, value_of
from reward.verifier.texts import plain, read_time, same_text
from reward.verifier.units import same_thing
from reward.verifier.yesno import NO, YES, read_gold, read_truth

_LABEL = re.compile(r"\s*(?:\(\s*[A-Za-z]\s*\)|[A-Z]\s*[.):])")
_COMPARISON = re.compile("[<>≤≥≠]|!=")
_IRRATIONAL_MARKS = ("\\", "√", "π", "^", "²", "³", "sqrt", "!")


def is_equivalent(answer: str, problem: Problem) -> bool:
    """Return whether the answer is equivalent to the problem's gold answer.

    `answer` is the answer alone: `reward.verifier.lenient` reads sentences. Raises DataError if the gold answer itself cannot be read as
    the problem's kind.
    """
    check_gold(problem)
    if len(answer) > MAX_CHARS or not tidy(answer):
        return False
    match problem.kind:
        case AnswerKind.NUMBER:
            return _is_number(answer, problem)
        case AnswerKind.YESNO:
            return read_truth(answer) is read_gold(problem.answer)
        case AnswerKind.CHOICE:
            return _is_choice(answer, problem)
        case AnswerKind.TEXT:
            return _is_text(answer, problem)
        case AnswerKind.LATEX:
            return same_expression(answer, problem.answer)
        case AnswerKind.LIST:
            return same_list(answer, problem.answer, problem.precision)


def check_gold(problem: Problem) -> None:
    """Raise DataError that names the problem if its gold answer cannot be read as its kind."""
    where = f"problem {problem.id}: its gold answer"
    if len(problem.answer) > MAX_CHARS or not tidy(problem.answer):
        raise DataError(f"{where} is empty or longer than {MAX_CHARS} characters")
    if problem.kind is AnswerKind.NUMBER and read_number(problem.answer) is None:
        raise DataError(f"{where} {problem.answer!r} is not a number; use kind 'text' or 'latex'")
    if problem.kind is AnswerKind.LATEX and not is_balanced(problem.answer):
        raise DataError(f"{where} {problem.answer!r} has braces that do not match; complete it")
    if problem.kind is AnswerKind.YESNO and read_gold(problem.answer) is None:
        raise DataError(f"{where} {problem.answer!r} is not one of yes, no, true, false")


def same_answer(first: str, second: str, problem: Problem) -> bool:
    """Return whether two answers to a problem are the same answer, by the rules of its kind."""
    if canonical(first) == canonical(second):
        return True
    if problem.kind is AnswerKind.CHOICE:
        place = find_choice(first, problem.choices)
        return place is not None and place == find_choice(second, problem.choices)
    if problem.kind is AnswerKind.YESNO:
        return read_truth(first) is read_truth(second)
    try:
        return is_equivalent(first, replace(problem, answer=second))
    except DataError:
        return False


def _is_number(answer: str, problem: Problem) -> bool:
    """Return whether the answer is the gold number, written as a number or as an expression with roots or powers."""
    gold, given = read_number(problem.answer), read_number(answer)
    assert gold is not None, "checked"
    if given is not None:
        return same_number(given, gold, problem.precision, problem.unit)
    if not any(mark in answer for mark in _IRRATIONAL_MARKS) or not is_expression(answer):
        return False
    if _COMPARISON.search(flattened(answer)) or hides_value(flattened(answer)):
        return False
    if problem.precision is not None and (value := value_of(answer)) is not None:
        return rounds_to(value, problem.precision, gold.value)
    return same_by_algebra(answer, _exact(gold))


def _exact(number: Number) -> str:
    """Return the number in LaTeX without rounding."""
    return rf"\frac{{{number.value.numerator}}}{{{number.value.denominator}}}"


def _is_choice(answer: str, problem: Problem) -> bool:
    """Return whether the answer names the gold option, or is mathematics equal to it and to no other option."""
    place = find_choice(answer, problem.choices)
    gold = canonical(problem.answer)
    if place is not None:
        return problem.choices[place] == problem.answer or canonical(problem.choices[place]) == gold
    if _LABEL.match(answer) or read_time(plain(answer)) is not None:
        return False  # an option that find_choice would have found
    if not is_expression(answer) or not is_expression(problem.answer) or len(canonical(answer)) < 2 or read_number(answer) is not None:
        return False
    others = [choice for choice in problem.choices if canonical(choice) != gold and is_expression(choice)]
    return same_expression(answer, problem.answer) and not any(same_expression(answer, other) for other in others)


def _is_text(answer: str, problem: Problem) -> bool:
    """Return whether the answer is the gold text, time or date, or the same number as a gold text that is a number."""
    if same_text(answer, problem.answer) or canonical(answer) == canonical(problem.answer):
        return True
    if plain(problem.answer) in YES | NO:
        return read_truth(answer) is read_gold(problem.answer)
    gold, given = read_number(problem.answer), read_number(answer)
    if gold is None or given is None or not same_thing(given.unit, gold.unit):
        return False
    return same_number(given, gold, problem.precision, problem.unit)
