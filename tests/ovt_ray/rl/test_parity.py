"""The gate measures the difference of log-probabilities, and stops a run whose two sides disagree."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from ovt_ray.core.errors import ParityError
from ovt_ray.core.types import AnswerKind, Completion, Problem, RolloutGroup, Sampling, TrainSample, VersionSpan
from ovt_ray.rl.parity import check_parity

PROBLEM = Problem(id="p7", question="?", images=(), answer="1", kind=AnswerKind.NUMBER)
SAMPLING = Sampling(num_completions=2, temperature=1.0, max_tokens=4, seed=0)


class Rollout:
    def generate(self, problems: Sequence[Problem], sampling: Sampling) -> Iterator[RolloutGroup]:
        for problem in problems:
            completions = tuple(
                Completion(
                    token_ids=(1, 2),
                    rollout_logprobs=(-1.0, -2.0),
                    text="",
                    finish_reason="stop",
                    versions=(VersionSpan(version=0, num_tokens=2),),
                )
                for _ in range(2)
            )
            yield RolloutGroup(problem=problem, prompt_ids=(9,), completions=completions)


@dataclass
class Learner:
    """Agrees with the rollout on the first answer, and disagrees on the last token of the others."""

    gap: float

    def logprobs(self, samples: Sequence[TrainSample]) -> list[tuple[float, ...]]:
        return [(-1.0, -2.0), *((-1.0, -2.0 + self.gap) for _ in samples[1:])]


@dataclass
class Services:
    learner: Learner
    rollout: Rollout


def test_the_gap_is_the_mean_of_the_worst_answer_and_the_worst_token_is_told() -> None:
    gap = check_parity(Services(Learner(8e-6), Rollout()), [PROBLEM], SAMPLING, 1e-5)  # type: ignore[arg-type]
    assert (gap.mean, gap.worst) == (pytest.approx(4e-6), pytest.approx(8e-6))


@pytest.mark.parametrize("gap", [4e-5, -4e-5, float("nan")])
def test_sides_that_disagree_stop_the_run_with_the_token_and_what_to_look_at(gap: float) -> None:
    with pytest.raises(ParityError, match=r"on an answer to problem p7.*Look at: the dtypes"):
        check_parity(Services(Learner(gap), Rollout()), [PROBLEM], SAMPLING, 1e-5)  # type: ignore[arg-type]
