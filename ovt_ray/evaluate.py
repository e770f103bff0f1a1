"""Greedy evaluation on the held-out problems."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ovt_ray.services import Services
from ovt_ray.types import Outcome, Problem, Sampling, ScoredGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The answers of one model to the held-out problems, one each."""

    groups: tuple[ScoredGroup, ...]
    """In the order of the problems; one completion each."""

    @property
    def num_correct(self) -> int:
        """Answers that are correct; one that could not be scored counts as not correct."""
        return sum(group.scores[0].outcome is Outcome.CORRECT for group in self.groups)

    @property
    def response_tokens(self) -> float:
        """Mean length of an answer."""
        return fmean(len(group.group.completions[0].token_ids) for group in self.groups)


def evaluate(services: Services, problems: Sequence[Problem], temperature: float, max_tokens: int) -> Evaluation:
    """Return the evaluation of the model that the rollout workers serve."""
    sampling = Sampling(num_completions=1, temperature=temperature, max_tokens=max_tokens, seed=0)
    return Evaluation(groups=tuple(services.scores(services.generate(problems, sampling))))
