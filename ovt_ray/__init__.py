"""Trains vision-language models to reason: distillation, SFT and GRPO as one job on one Ray cluster.

The names here are for authors of rewards and tools. They are light to import.
"""

from ovt_ray.core.errors import OvtError, RewardError
from ovt_ray.core.types import AnswerKind, Completion, Failure, Outcome, Problem, RolloutGroup, Score, ScoredGroup, Trace

__version__ = "0.1.0"

__all__ = [
    "AnswerKind",
    "Completion",
    "Failure",
    "Outcome",
    "OvtError",
    "Problem",
    "RewardError",
    "RolloutGroup",
    "Score",
    "ScoredGroup",
    "Trace",
    "__version__",
]
