"""The gate before each RL stage: rollout and learner must give the same tokens the same log-probabilities.

It catches what raises nothing: stale image features, pixels lost on the way, wrong positions, weights that did not arrive.
"""

from collections.abc import Sequence

from ovt_ray.errors import ParityError
from ovt_ray.services import Services
from ovt_ray.types import Problem, Sampling, TrainSample


def check_parity(services: Services, problems: Sequence[Problem], sampling: Sampling, max_gap: float) -> float:
    """Return the largest difference of log-probabilities over all tokens of a few completions, nats.

    Raises ParityError naming the problem and the token where it is above `max_gap`.
    """
    samples = [
        TrainSample(
            problem=group.problem,
            prompt_ids=group.prompt_ids,
            completion_ids=completion.token_ids,
            rollout_logprobs=completion.rollout_logprobs,
        )
        for group in services.rollout.generate(problems, sampling)
        for completion in group.completions
    ]
    policy_logprobs = services.learner.logprobs(samples)
    worst, problem_id, position = max(
        (abs(rollout - policy), sample.problem.id, position)
        for sample, row in zip(samples, policy_logprobs, strict=True)
        for position, (rollout, policy) in enumerate(zip(sample.rollout_logprobs or (), row, strict=True))
    )
    if not worst <= max_gap:
        raise ParityError(
            f"rollout and learner differ by {worst:.2g} nats on token {position} of an answer to problem {problem_id}; allowed is "
            f"grpo.max_parity_gap={max_gap:g}. Look at: the dtypes of rollout and learner (bfloat16 needs about 0.1), whether the "
            "learner's weights reached the engine, and image size limits"
        )
    return worst
