r"""Compares two mathematical expressions through math-verify, the last and most expensive resort.

math-verify and sympy never receive prose or an expression that can grow without bound. `is_safe` lets through short expressions of known
commands with small exponents. It cannot bound sympy's `simplify`, so compare untrusted answers only in a process that can be killed.
The deadlines of math-verify are off, because they need signals and thus a main thread.
"""

import functools
import logging
import math
import re
from fractions import Fraction
from typing import TYPE_CHECKING

from reward.verifier.latex import as_latex
from reward.verifier.numeric_equality import agree

if TYPE_CHECKING:
    from sympy import Basic

MAX_CHARS = 200
_MAX_DEPTH = 12
_MAX_DIGITS = 18
_MAX_POWER = 5000
"""Upper bound on the product of all exponents of an expression of numbers, as a power tower multiplies them."""
_MAX_SYMBOLIC_POWER = 40
"""The same bound for an expression with variables, whose powers of sums are multiplied out."""
_FUNCTION_NAMES = "sin cos tan cot sec csc arcsin arccos arctan log ln exp lg sqrt pi"
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_SYMBOL_NAMES = """
    frac times cdot div pm infty cup cap in le leq ge geq ne neq lt gt alpha beta gamma delta theta phi lambda mu omega rho sigma tau
    epsilon varphi Delta triangle angle circ mathbb emptyset setminus overline mid vert
"""
_COMMANDS = _FUNCTIONS | frozenset(_SYMBOL_NAMES.split())
_PROSE = frozenset(["or", "is", "in", "to", "of", "at", "an", "if", "no", "by", "as", "it", "we", "so", "on", "up"])
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_WORD = re.compile(r"[^\W\d_]{2,}")
_EXPONENT = re.compile(r"\^ ?(?:\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}|\(([^()]*)\)|(-?\d+|\S))")
_TOWER = re.compile(r"\^ ?(?:\{[^{}]*\}|\([^()]*\)|-?\w+|\S) ?\^")
_DROPPED = re.compile(r"[\w)]?'+|\d_\{?\d+|\\frac ?\{ ?d ?\w? ?\}")
"""Signs that the parser drops or takes for factors: derivatives and the base of a number."""


def same_by_algebra(given: str, gold: str) -> bool:
    """Return whether two mathematical expressions are equal. False if either cannot be read or is not safe to compute with."""
    latex, gold_latex = as_latex(given), as_latex(gold)
    if sorted(_DROPPED.findall(latex)) != sorted(_DROPPED.findall(gold_latex)):
        return False
    if (verdict := agree(latex, gold_latex)) is not None:
        return verdict
    first, second = _parsed(latex), _parsed(gold_latex)
    if first is None or second is None:
        return False
    from math_verify import verify

    return bool(verify(second, first, timeout_seconds=None))


def load_algebra() -> None:
    """Import the algebra system and use it once, half a second in all, so that no answer waits for its imports and tables."""
    same_by_algebra(r"2\ln x+\frac{y}{2}", r"\frac{1}{2}y+\ln x^2")  # functions, which values at points do not decide


def value_of(text: str) -> Fraction | None:
    """Return a mathematical expression's real value to thirty digits. None if it has variables or is not safe to compute."""
    parsed = _parsed(as_latex(text))
    if parsed is None or not getattr(parsed, "is_number", False):
        return None
    value = parsed.doit().evalf(30)
    return Fraction(str(value)) if value.is_Float or value.is_Integer or value.is_Rational else None


def is_expression(text: str) -> bool:
    """Return whether a text looks like mathematics: it has a letter, digit or symbol, and its only words are functions' names."""
    text = as_latex(text)
    if not text or len(text) > MAX_CHARS:
        return False
    if any(command not in _COMMANDS for command in _COMMAND.findall(text)):
        return False
    words = _WORD.findall(_COMMAND.sub(" ", text))
    if not _PROSE.isdisjoint(words):
        return False
    return all(word in _FUNCTIONS or (len(word) <= 3 and (word.isupper() or len(word) <= 2)) for word in words)


def is_safe(latex: str) -> bool:
    """Return whether an expression is small enough to be computed with: length, depth, digits, exponents, known commands."""
    if not latex.isascii() or "!" in latex or not is_expression(latex) or re.search(rf"\d{{{_MAX_DIGITS + 1}}}", latex):
        return False
    depth = 0
    for character in latex:
        depth += (character in "{([") - (character in "})]")
        if depth > _MAX_DEPTH:
            return False
    powers = [next(part for part in found.groups() if part is not None) for found in _EXPONENT.finditer(latex)]
    if any("^" in power for power in powers) or _TOWER.search(latex) or latex.count("^") != len(powers):
        return False
    size = math.prod(max(1, int(digits)) for power in powers for digits in re.findall(r"\d+", power))
    has_variable = bool(re.search(r"[a-zA-Z]", _COMMAND.sub(" ", latex)))
    return size <= (_MAX_SYMBOLIC_POWER if has_variable else _MAX_POWER)


@functools.lru_cache(maxsize=256)
def _parsed(latex: str) -> "Basic | None":
    """Return the sympy expression of a LaTeX one, unevaluated; None if it is not safe or cannot be parsed as a whole."""
    if not latex or not is_safe(latex):
        return None
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its deadlines are off, which is on purpose
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    spelling = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
    config = LatexExtractionConfig(boxed_match_priority=-1, normalization_config=spelling)
    found = parse(f"${latex}$", [config], fallback_mode="no_fallback", parsing_timeout=None)
    if not found or isinstance(found[0], str) or found[0].is_Boolean and not found[0].free_symbols:
        return None  # `\ln 1 = 0` is true whatever the answer is
    return _with_real_symbols(found[0])


def _with_real_symbols(parsed: "Basic") -> "Basic":
    """Return the expression with all variables real. The parser takes them for real or not, depending on blanks."""
    from sympy import Symbol

    return parsed.xreplace({symbol: Symbol(symbol.name, real=True) for symbol in parsed.free_symbols if not symbol.is_real})
