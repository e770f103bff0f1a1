"""What a reward is to the service that runs it; docs/rewards.md shows each kind with an example.

A function `(problem, text)`, or an object with `__call__(problem, text)` for one completion or `score_batch(problem, texts)`
for several of the same problem, any of them plain or `async`. It returns a `Score`, or a bare number, per text. Where it has a
parameter `num_tokens` it is also given the length of the completion (of each, for a batch).
"""

import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ovt_ray.core.types import Failure, Outcome, Score

TOKENS = "num_tokens"
"""Name of the parameter by which a reward asks for lengths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of the rewards that are added up."""

    name: str
    """As in the config: `package.module:Name`, `path/file.py:Name`, an address, ..."""
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of its constructor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One completion as rewards see it."""

    index: int
    """Position among the completions of its problem; errors name it."""
    text: str
    num_tokens: int
    """Tokens that the model sampled; for a text that no model of ours wrote, its words."""

    @classmethod
    def of_text(cls, index: int, text: str) -> "Answer":
        """Return the answer of a text whose tokens nobody counted."""
        return cls(index=index, text=text, num_tokens=len(text.split()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How a reward is called."""

    name: str
    """`score_batch` or `__call__`."""
    is_async: bool
    takes_tokens: bool

    @property
    def is_batch(self) -> bool:
        """Whether it takes several texts at once."""
        return self.name == "score_batch"

    def arguments(self, answers: tuple[Answer, ...]) -> tuple[Any, ...]:
        """Return what follows the problem: the texts and, if asked for, the numbers of tokens; of one text unless it is a batch."""
        columns: list[Any] = [[answer.text for answer in answers]]
        if self.takes_tokens:
            columns.append([answer.num_tokens for answer in answers])
        return tuple(columns if self.is_batch else (column[0] for column in columns))


def method_of(reward: object) -> Method:
    """Return how to call a function, an object, or objects of a class. Raises TypeError if it cannot be called as a reward."""
    owner = reward if inspect.isclass(reward) else type(reward)
    name = "score_batch" if not inspect.isfunction(reward) and hasattr(owner, "score_batch") else "__call__"
    found: Callable[..., Any] | None = reward if inspect.isfunction(reward) else _attributes_of(owner).get(name)
    if found is None:
        raise TypeError("has neither __call__(problem, text) nor score_batch(problem, texts)")
    skipped = () if found is reward else ("self",)
    expected = ("problem", "texts" if name == "score_batch" else "text")
    try:
        signature = inspect.signature(found)
    except ValueError:  # some builtins have none
        return Method(name=name, is_async=False, takes_tokens=False)
    takes_tokens = TOKENS in signature.parameters
    arguments = (*skipped, *expected, TOKENS) if takes_tokens else (*skipped, *expected)
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise TypeError(f"takes {signature}; it is called as ({', '.join(arguments[len(skipped) :])}): {error}") from error
    return Method(name=name, is_async=inspect.iscoroutinefunction(found), takes_tokens=takes_tokens)


def _attributes_of(owner: type) -> dict[str, Any]:
    """Return the attributes that a class defines or inherits, `object` left out."""
    return {name: value for base in reversed(owner.__mro__[:-1]) for name, value in vars(base).items()}


def unscorable(reason: str, failure: Failure | None) -> Score:
    """Return the score of an answer that a reward failed on."""
    return Score(value=0.0, outcome=Outcome.UNSCORABLE, extracted=None, reason=reason, failure=failure)


class NoScoreError(Exception):
    """What a reward returned is no score; the message says what it is."""


def as_score(returned: object) -> Score:
    """Return what a reward gave as a score of plain values: a bare number is correct from 1 on, else wrong.

    Raises NoScoreError if it is no score.
    """
    try:
        return _as_score(returned)
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise NoScoreError(f"returned a {type(returned).__name__} that is no score: {error}") from error


def _as_score(returned: object) -> Score:
    if isinstance(returned, numbers.Real):
        value = float(returned)
        returned = Score(value=value, outcome=Outcome.CORRECT if value >= 1 else Outcome.WRONG, extracted=None)
    if not isinstance(returned, Score):
        raise NoScoreError(f"returned {type(returned).__name__}, neither a Score nor a number")
    if not math.isfinite(returned.value):
        raise NoScoreError(f"returned the value {returned.value}, not a finite number")
    return Score(
        value=float(returned.value),
        outcome=Outcome(returned.outcome),
        extracted=None if returned.extracted is None else str(returned.extracted),
        reason=str(returned.reason),
        parts={str(name): float(value) for name, value in returned.parts.items()},
    )


def as_scores(returned: object, num_texts: int) -> list[Score]:
    """Return what `score_batch` gave as scores. Raises NoScoreError unless it is one score per text."""
    if not isinstance(returned, list | tuple):
        raise NoScoreError(f"returned {type(returned).__name__}, not a list of scores")
    if len(returned) != num_texts:
        raise NoScoreError(f"returned {len(returned)} scores for {num_texts} texts")
    return [as_score(score) for score in returned]
