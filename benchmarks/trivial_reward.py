"""A reward that costs nothing, for benchmarks of everything else."""

from ovt_ray.types import Outcome, Problem, Score


def score(problem: Problem, text: str) -> Score:
    """Return 1 for every answer."""
    return Score(value=1.0, outcome=Outcome.CORRECT, extracted=None)
