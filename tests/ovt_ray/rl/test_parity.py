"""The gate measures the difference of log-probabilities, and stops a run whose two sides disagree."""

import pytest

from ovt_ray.core.errors import ParityError
from ovt_ray.core.types import AnswerKind, Completion, Problem, RolloutGroup, VersionSpan
from ovt_ray.rl.parity import check_parity, parity_samples

PROBLEM = Problem(id="p7", question="?", images=(), answer="1", kind=AnswerKind.NUMBER)


ANSWERS = tuple(
    Completion(
        token_ids=(1, 2), rollout_logprobs=(-1.0, -2.0), text="", finish_reason="stop", versions=(VersionSpan(version=0, num_tokens=2),)
    )
    for _ in range(2)
)
SAMPLES = parity_samples([RolloutGroup(problem=PROBLEM, prompt_ids=(9,), completions=ANSWERS)])


def logprobs(gap: float) -> list[tuple[float, ...]]:
    """Return values that agree with the rollout on the first answer, and disagree on the last token of the other."""
    return [(-1.0, -2.0), (-1.0, -2.0 + gap)]


def test_the_gap_is_the_mean_of_the_worst_answer_and_the_worst_token_is_reported() -> None:
    gap = check_parity(SAMPLES, logprobs(8e-6), 1e-5)
    assert (gap.mean, gap.worst) == (pytest.approx(4e-6), pytest.approx(8e-6))


@pytest.mark.parametrize("gap", [4e-5, -4e-5, float("nan")])
def test_sides_that_disagree_stop_the_run_with_the_token_and_what_to_look_at(gap: float) -> None:
    with pytest.raises(ParityError, match=r"on an answer to problem p7.*Look at: the dtypes"):
        check_parity(SAMPLES, logprobs(gap), 1e-5)
