"""Intervals for measured shares."""

import math

Z_95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Return the 95 % score interval (low, high) of a share, both within 0 and 1; (0, 1) when nothing was counted.

    Solves |p - correct / total| = z sqrt(p (1 - p) / total) for p. The interval never leaves 0 to 1. It keeps a width at 0 and at
    `total`, where the normal approximation has none.
    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927), p. 209-212.
    """
    if not 0 <= correct <= total:
        raise ValueError(f"{correct} correct of {total}: must be between 0 and the total")
    if total == 0:
        return 0.0, 1.0
    share = correct / total
    shrink = 1 + Z_95**2 / total
    centre = (share + Z_95**2 / (2 * total)) / shrink
    half = Z_95 * math.sqrt(share * (1 - share) / total + Z_95**2 / (4 * total**2)) / shrink
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == total else centre + half
    return low, high
