r"""Rewrites an answer to the LaTeX that the algebra system reads: `sqrt(3)`, `2*x**2`, `5!`, `\sin 30^\circ`, `π`."""

import math
import re
from fractions import Fraction

from reward.verifier.clean import flattened

_MAX_FACTORIAL = 20
_MAX_BINOMIAL = 60
_SLASH = re.compile(r"(?<![\^\w.})√])(\d+)/(\d+)(?![\d.^!])")
_PLAIN_ROOT = re.compile(r"(?<!\\)(?:\bsqrt ?|√ ?)(?:\(([^()]{1,60})\)|\{([^{}]{1,60})\}|(\d+|[a-zA-Z]))")
_PLAIN_FUNCTION = re.compile(r"(?<![\\a-zA-Z])(sin|cos|tan|cot|sec|csc|log|ln|exp)(?![a-zA-Z])")
_PLAIN_PI = re.compile(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])")
_DEGREES_OF = re.compile(r"\\(sin|cos|tan|cot|sec|csc) ?[({]? ?(\d{1,4}) ?° ?[)}]?")
_FACTORIAL = re.compile(r"(?<![\w.,!])(\d{1,2})!(?!!)|(?<=!)(\d{1,2})!(?!!)")
_BINOMIAL = re.compile(r"\\[dt]?binom ?\{ ?(\d{1,2}) ?\} ?\{ ?(\d{1,2}) ?\}|\{? ?(\d{1,2}) ?\\choose ?(\d{1,2}) ?\}?")
_DECIMAL_POWER = re.compile(r"\^ ?(?:\{ ?(-?\d{0,3}\.\d{1,4}) ?\}|(-?\d{0,3}\.\d{1,4}))")
_NATURAL_LOG = re.compile(r"\\log ?_ ?(?:\{ ?e ?\}|e)")
_LATEX_OF = {
    "π": r"\pi ", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "≤": r"\le ",
    "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "∈": r"\in ", "∅": r"\emptyset ",
    "**": "^", "*": r"\cdot ", "°": "",
}  # fmt: skip


def as_latex(text: str) -> str:
    r"""Return the expression in LaTeX, with small factorials and binomial coefficients computed, and degrees in radians."""
    text = flattened(text).replace("$", "").rstrip(" .,;")
    text = _SLASH.sub(r"\\frac{\1}{\2}", text)  # `1/2 x` is half of x
    text = _PLAIN_FUNCTION.sub(r"\\\1", text)
    text = _PLAIN_PI.sub("π", text)
    text = _DEGREES_OF.sub(lambda angle: rf"\{angle[1]}(\frac{{{angle[2]}\pi}}{{180}})", text)
    text = _BINOMIAL.sub(_binomial, _FACTORIAL.sub(_factorial, text))
    for symbol, latex in _LATEX_OF.items():
        text = text.replace(symbol, latex)
    text = _PLAIN_ROOT.sub(lambda root: rf"\sqrt{{{next(part for part in root.groups() if part is not None)}}}", text)
    text = _NATURAL_LOG.sub(r"\\ln", text)
    text = _DECIMAL_POWER.sub(_fraction_power, text)
    text = re.sub(r"\^ ?\((-?[\w/]+)\)", r"^{\1}", text)
    return re.sub(r"\^ ?(-?\d+)", r"^{\1}", text)


def _factorial(found: re.Match[str]) -> str:
    """Return the value of a factorial in brackets. A large factorial stays as it is, and is refused later."""
    number = int(found[1] or found[2])
    times = "" if found[1] else r"\cdot "
    return f"{times}({math.factorial(number)})" if number <= _MAX_FACTORIAL else found[0]


def _binomial(found: re.Match[str]) -> str:
    """Return the value of a binomial coefficient in brackets. A large coefficient stays as it is, and is refused later."""
    total, chosen = (int(part) for part in found.groups() if part is not None)
    return f"({math.comb(total, chosen)})" if total <= _MAX_BINOMIAL else found[0]


def _fraction_power(found: re.Match[str]) -> str:
    """Return an exponent such as `0.5` as a fraction: the algebra system takes a decimal for inexact."""
    return f"^{{{Fraction(found[1] or found[2])}}}"
