"""How the tests on real engines draw completions, and tokens and log-probabilities of the groups by problem."""

from collections.abc import Iterator

from ovt_ray.core.types import RolloutGroup, Sampling


def sampling(num_completions: int = 4, seed: int = 0, temperature: float = 1.0, top_p: float = 1.0) -> Sampling:
    return Sampling(num_completions=num_completions, temperature=temperature, top_p=top_p, max_tokens=24, seed=seed)


def by_id(groups: Iterator[RolloutGroup]) -> dict[str, list[tuple[tuple[int, ...], tuple[float, ...]]]]:
    return {group.problem.id: [(c.token_ids, c.rollout_logprobs) for c in group.completions] for group in groups}
