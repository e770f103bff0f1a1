"""The interface between a reward and the service that runs it. docs/rewards.md shows each kind with an example.

A reward is a function `(problem, text)`, or an object with `__call__(problem, text)` for one completion or
`score_batch(problem, texts)` for several completions of the same problem. Each may be plain or `async`. It returns a `Score` or a bare
number per text. A reward with a parameter `num_tokens` also receives the length of the completion, or a list of lengths for a batch.
"""

import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ovt_ray.core.types import Failure, Outcome, Score

TOKENS = "num_tokens"
"""Name of the parameter that receives the lengths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A reward of the weighted sum."""

    name: str
    """Name of the reward, as in the config: `package.module:Name`, `path/file.py:Name`, an address, ..."""
    weight: float = 1.0
    """Factor of the reward's value in the sum."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the reward's constructor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A completion in the form that rewards receive."""

    index: int
    """Position among the completions of its problem, which errors name."""
    text: str
    num_tokens: int
    """Token count that the model sampled. For a text without a token count it is the number of words."""

    @classmethod
    def of_text(cls, index: int, text: str) -> "Answer":
        """Return the answer of a text without a token count."""
        return cls(index=index, text=text, num_tokens=len(text.split()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """The method that calls a reward."""

    name: str
    """`score_batch` or `__call__`."""
    is_async: bool
    takes_tokens: bool
    """Whether the method has a parameter `num_tokens`."""

    @property
    def is_batch(self) -> bool:
        """Whether the method takes several texts at once."""
        return self.name == "score_batch"

    def arguments(self, answers: tuple[Answer, ...]) -> tuple[Any, ...]:
        """Return the arguments after the problem: the texts and, if requested, the token counts. Without a batch they are of one text."""
        columns: list[Any] = [[answer.text for answer in answers]]
        if self.takes_tokens:
            columns.append([answer.num_tokens for answer in answers])
        return tuple(columns if self.is_batch else (column[0] for column in columns))


def method_of(reward: object) -> Method:
    """Return the method that calls a function, an object, or the objects of a class. Raises TypeError if none can be called as a reward."""
    owner = reward if inspect.isclass(reward) else type(reward)
    name = "score_batch" if not inspect.isfunction(reward) and hasattr(owner, "score_batch") else "__call__"
    found: Callable[..., Any] | None = reward if inspect.isfunction(reward) else _attributes_of(owner).get(name)
    if found is None:
        raise TypeError("has neither __call__(problem, text) nor score_batch(problem, texts)")
    skipped = () if found is reward else ("self",)
    expected = ("problem", "texts" if name == "score_batch" else "text")
    try:
        signature = inspect.signature(found)
    except ValueError:  # some builtins have no signature
        return Method(name=name, is_async=False, takes_tokens=False)
    takes_tokens = TOKENS in signature.parameters
    arguments = (*skipped, *expected, TOKENS) if takes_tokens else (*skipped, *expected)
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise TypeError(f"takes {signature}; it is called as ({', '.join(arguments[len(skipped) :])}): {error}") from error
    return Method(name=name, is_async=inspect.iscoroutinefunction(found), takes_tokens=takes_tokens)


def _attributes_of(owner: type) -> dict[str, Any]:
    """Return the attributes that a class defines or inherits, except the attributes of `object`."""
    return {name: value for base in reversed(owner.__mro__[:-1]) for name, value in vars(base).items()}


def unscorable(reason: str, failure: Failure | None) -> Score:
    """Return the score of an answer that a reward failed on."""
    return Score(value=0.0, outcome=Outcome.UNSCORABLE, extracted=None, reason=reason, failure=failure)


class NoScoreError(Exception):
    """A reward returned a value that is no score. The message describes the value."""


def as_score(returned: object) -> Score:
    """Return a reward's return value as a score of plain values. A bare number is correct from 1 on, else wrong.

    Raises NoScoreError if the value is no score.
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
    """Return the return value of `score_batch` as scores. Raises NoScoreError unless it has a score per text."""
    if not isinstance(returned, list | tuple):
        raise NoScoreError(f"returned {type(returned).__name__}, not a list of scores")
    if len(returned) != num_texts:
        raise NoScoreError(f"returned {len(returned)} scores for {num_texts} texts")
    return [as_score(score) for score in returned]
