"""Greedy evaluation on the held-out problems."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ovt_ray.core.types import Outcome, Problem, Sampling, ScoredGroup
from ovt_ray.run.progress import Progress
from ovt_ray.services import Services


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The answers of one model to the held-out problems, one answer a problem."""

    groups: tuple[ScoredGroup, ...]
    """Groups of one completion each, in the order of the problems."""

    @property
    def num_correct(self) -> int:
        """Number of correct answers; an answer that could not be scored counts as not correct."""
        return sum(group.scores[0].outcome is Outcome.CORRECT for group in self.groups)

    @property
    def response_tokens(self) -> float:
        """Mean length of an answer, in tokens."""
        return fmean(len(group.group.completions[0].token_ids) for group in self.groups)


def evaluate(services: Services, problems: Sequence[Problem], *, temperature: float, max_tokens: int, stage: str) -> Evaluation:
    """Return the evaluation of the model that the rollout workers serve, and show its progress."""
    sampling = Sampling(num_completions=1, temperature=temperature, max_tokens=max_tokens, seed=0)
    scored: dict[str, ScoredGroup] = {}
    num_correct, num_tokens, began = 0, 0, time.monotonic()
    with Progress(f"{stage} evaluation", len(problems)) as progress:
        for number, group in enumerate(services.groups.answers(problems, sampling)):
            scored[group.group.problem.id] = group
            num_correct += group.scores[0].outcome is Outcome.CORRECT
            num_tokens += len(group.group.completions[0].token_ids)
            figures = {"accuracy": num_correct / (number + 1), "tokens_per_s": num_tokens / (time.monotonic() - began)}
            progress.step(number, figures)
    return Evaluation(groups=tuple(scored[problem.id] for problem in problems))
