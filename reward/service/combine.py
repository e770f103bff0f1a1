"""Combines several rewards into their weighted sum."""

from collections.abc import Sequence

from ovt_ray.core.types import Outcome, Score
from reward.protocol import Part


def combine(parts: Sequence[Part], scores: Sequence[Score]) -> Score:
    """Return the sum of weight times value, with each part's value by name. Outcome, answer and reason are the first part's.

    The sum is unscorable, for the part's reason, if any part is: without a term it would not compare with other answers' sums.
    """
    values: dict[str, float] = {}
    for part, score in zip(parts, scores, strict=True):
        if score.outcome is not Outcome.UNSCORABLE:
            values |= {part.name: score.value} | {f"{part.name}/{name}": value for name, value in score.parts.items()}
    first = scores[0]
    for score in scores:
        if score.outcome is Outcome.UNSCORABLE:
            return Score(
                value=0.0, outcome=score.outcome, extracted=first.extracted, reason=score.reason, parts=values, failure=score.failure
            )
    total = sum(part.weight * score.value for part, score in zip(parts, scores, strict=True))
    return Score(value=total, outcome=first.outcome, extracted=first.extracted, reason=first.reason, parts=values)
