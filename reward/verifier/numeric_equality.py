r"""Compares two expressions by their values at a few points, a hundred times faster than a computer algebra system.

Two short expressions that agree to eleven digits at three generic points are the same function (Schwartz and Zippel's argument). Two
expressions that clearly differ there are different functions. Cases in between are left to math-verify. So are functions, sets and
inequalities, which this file does not read.

    expression = ["+" | "-"] term {("+" | "-") term}
    term       = power {["\cdot" | "\times" | "*" | "\div" | "/"] power}
    power      = base ["^" base]
    base       = number | variable | "\pi" | "(" expression ")" | "{" expression "}" | "|" expression "|"
               | "\frac" base base | "\sqrt" ["[" n "]"] base
"""

import math
import re

POINTS = (7 / 3, -13 / 7, 31 / 17)
"""Value of a variable at each point, before its scale. Both signs occur, so that `x` differs from the root of its square."""
FAR, NEAR = 1e-5, 1e-11
"""Relative differences above which values differ and below which they are equal. math-verify rounds to six digits, so it decides cases in
between."""
_MAX_TOKENS = 120
_MAX_DEPTH = 12
_MAX_EXPONENT = 64
_MAX_DIGITS = 9
_MAX_VALUE = 1e7
"""Upper bound on all values, intermediate values too. Beyond it rounding would lose a small term: `10^{20}+1` is not `10^{20}`."""
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?|\.\d+)|(?P<word>\\[a-zA-Z]+|[a-zA-Z](?:_(?:\w|\{\w{1,4}\}))?)|(?P<sign>[-+*/^(){}\[\]|]))\s*"
)
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3}")
"""Three letters in a row, which are rather a name, such as `sqrt`, than a product."""
_TIMES = ("\\cdot", "\\times", "*")
_OVER = ("\\div", "/")
_CONSTANTS = {"\\pi": complex(math.pi), "e": complex(math.e), "i": 1j}
_CLOSING = {"(": ")", "{": "}"}

Values = list[complex]
"""A value for each of POINTS."""


class _UnreadError(ValueError):
    """The expression is not in the grammar, or has no value at a point."""


def agree(first: str, second: str) -> bool | None:
    """Return whether two LaTeX expressions have the same values, or two equations of polynomials the same solutions.

    None where the values do not decide. An equation that always holds, such as `0=0`, agrees only with equations that always hold.
    """
    if _is_identity(first) is not _is_identity(second):
        return False
    try:
        if first.count("=") == second.count("=") == 1:
            ratios = [a / b for a, b in zip(_difference_of_sides(first), _difference_of_sides(second), strict=True)]
            gaps = [_gap(ratio, ratios[0]) for ratio in ratios]
        else:
            gaps = [_gap(a, b) for a, b in zip(_Reader(first).read(), _Reader(second).read(), strict=True)]
    except (_UnreadError, ArithmeticError):
        return None
    if max(gaps) > FAR:
        return False
    return True if max(gaps) < NEAR else None


def _gap(a: complex, b: complex) -> float:
    """Return the difference relative to the larger value, or the absolute difference where both are tiny."""
    return abs(a - b) / max(abs(a), abs(b), 1e-6)


def _is_identity(text: str) -> bool:
    """Return whether the text is an equation whose sides have the same values. Sides that cannot be read must have the same spelling."""
    left, sign, right = text.partition("=")
    if not sign:
        return False
    try:
        return all(_gap(a, b) < NEAR for a, b in zip(_Reader(left).read(), _Reader(right).read(), strict=True))
    except (_UnreadError, ArithmeticError):
        return left.strip() == right.strip()


def _difference_of_sides(equation: str) -> Values:
    left, _, right = equation.partition("=")
    sides = _Reader(left), _Reader(right)
    values = [a - b for a, b in zip(sides[0].read(), sides[1].read(), strict=True)]
    if not (sides[0].is_polynomial and sides[1].is_polynomial):
        raise _UnreadError
    return values


def _bounded(values: Values) -> Values:
    """Return the values. Raises _UnreadError if a value is too large to be compared."""
    if max(map(abs, values)) > _MAX_VALUE:
        raise _UnreadError
    return values


def _is_constant(values: Values) -> bool:
    return all(value == values[0] for value in values)


class _Reader:
    """Computes the values of an expression while reading it."""

    def __init__(self, latex: str) -> None:
        self._tokens = _tokens(latex)
        self._place = 0
        self._depth = 0
        self._num_open_bars = 0
        self.is_polynomial = True
        """Whether the expression read so far is a polynomial in its variables."""

    def read(self) -> Values:
        """Return the values of the whole expression. Raises _UnreadError or ArithmeticError."""
        values = self._expression()
        if self._next():
            raise _UnreadError
        return values

    def _next(self) -> str:
        """Return the next token without taking it; empty at the end."""
        return self._tokens[self._place] if self._place < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._next()
        self._place += 1
        return token

    def _expression(self) -> Values:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _UnreadError
        sign = -1 if self._next() == "-" else 1
        if self._next() in ("+", "-"):
            self._take()
        total = [sign * value for value in self._term()]
        while self._next() in ("+", "-"):
            sign = -1 if self._take() == "-" else 1
            total = _bounded([a + sign * b for a, b in zip(total, self._term(), strict=True)])
        self._depth -= 1
        return total

    def _term(self) -> Values:
        product, was_divided = self._power(), False
        while (token := self._next()) and token not in ("+", "-", ")", "}", "]") and not (token == "|" and self._num_open_bars):
            if token in _TIMES or token in _OVER:
                self._take()
            elif was_divided or (self._tokens[self._place - 1][0].isdigit() and (token == "\\frac" or token[0].isdigit())):
                raise _UnreadError  # `1/2x` and `2\frac{1}{3}` are read in two ways
            factor = self._power()
            was_divided = token in _OVER
            product = self._quotient(product, factor) if was_divided else _bounded([a * b for a, b in zip(product, factor, strict=True)])
        return product

    def _power(self) -> Values:
        base = self._base()
        if self._next() != "^":
            return base
        self._take()
        exponent = self._base()
        if any(abs(value) > _MAX_EXPONENT for value in exponent):
            raise _UnreadError
        self.is_polynomial &= (_is_constant(base) and _is_constant(exponent)) or (_is_constant(exponent) and exponent[0] in (1, 2, 3, 4))
        return _bounded([a**b for a, b in zip(base, exponent, strict=True)])

    def _base(self) -> Values:
        token = self._take()
        if token in _CLOSING:
            values = self._expression()
            if self._take() != _CLOSING[token]:
                raise _UnreadError
            return values
        if token == "|":
            return self._absolute()
        if token == "\\frac":
            return self._quotient(self._argument(), self._argument())
        if token == "\\sqrt":
            degree, values = self._degree(), self._argument()
            self.is_polynomial &= _is_constant(values)
            return [value ** (1 / degree) for value in values]
        if token[:1].isdigit() or token[:1] == ".":
            if len(token) > _MAX_DIGITS:
                raise _UnreadError
            return [complex(float(token))] * len(POINTS)
        if token in _CONSTANTS:
            return [_CONSTANTS[token]] * len(POINTS)
        if token[:1].isalpha():
            return [complex(point * _scale(token)) for point in POINTS]
        raise _UnreadError

    def _absolute(self) -> Values:
        """Return the absolute values of the expression between two bars, after the first bar."""
        if self._num_open_bars:
            raise _UnreadError  # a bar inside bars opens or closes
        self._num_open_bars = 1
        values = self._expression()
        self._num_open_bars = 0
        if self._take() != "|":
            raise _UnreadError
        self.is_polynomial &= _is_constant(values)
        return [complex(abs(value)) for value in values]

    def _quotient(self, values: Values, divisor: Values) -> Values:
        self.is_polynomial &= _is_constant(divisor)
        return _bounded([a / b for a, b in zip(values, divisor, strict=True)])

    def _argument(self) -> Values:
        """Return the argument of a command, which stands in braces."""
        if self._next() != "{":
            raise _UnreadError
        return self._base()

    def _degree(self) -> int:
        """Return n of the n-th root that follows."""
        if self._next() != "[":
            return 2
        _, degree, closing = self._take(), self._take(), self._take()
        if closing != "]" or degree not in ("2", "4"):
            raise _UnreadError  # an odd root of a negative number is real in one reading, complex in another
        return int(degree)


def _tokens(latex: str) -> list[str]:
    """Return the tokens of an expression. Raises _UnreadError for any other character, or too many."""
    if _WORD.search(latex):
        raise _UnreadError
    tokens: list[str] = []
    place = 0
    while place < len(latex):
        match = _TOKEN.match(latex, place)
        if match is None or len(tokens) == _MAX_TOKENS:
            raise _UnreadError
        tokens.append(match.group().strip())
        place = match.end()
    return tokens


def _scale(variable: str) -> float:
    """Return a factor from 1 to 2 that keeps the values of variables apart. It depends on the name without braces."""
    name = variable.replace("{", "").replace("}", "")
    return 1 + math.fmod(sum(0.137 * (place + 1) * ord(character) for place, character in enumerate(name)), 1)
