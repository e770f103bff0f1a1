"""The three services of a run, on one Ray cluster: started together, closed together."""

from contextlib import ExitStack

import ray
from ray.exceptions import GetTimeoutError, RayError

from actors.placed import EngineLauncher
from actors.pool import RolloutPool
from learner.group import LearnerGroup
from ovt_ray.cluster import cluster
from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.spans import ActorSpans, Span
from ovt_ray.rl.scored_rollouts import ScoredRollouts
from reward.pool import RewardPool

SPANS_S = 1.0
"""Longest wait for the spans of the actors. They answer in milliseconds, except one that is being replaced."""


class Services:
    """Rollout pool, reward pool and learner group; closing it leaves no process behind."""

    def __init__(self, config: RunConfig, engine_model: str) -> None:
        """Start every service and wait until the engines, which take longest, answer with the weights of `engine_model`."""
        with ExitStack() as started:
            started.enter_context(cluster(config))
            self._config = config
            self._engine_model = engine_model
            self._rollout: RolloutPool | None = None
            self._groups: ScoredRollouts | None = None
            # Before the other services: an error in their start ends the workers.
            started.callback(self.end_rollout, engine_model)
            # First of the three, as engines take longest: learner and reward start meanwhile.
            self.start_rollout()
            self.learner = LearnerGroup(config.learner, config.model, config.seed)
            started.callback(self.learner.close)
            self.reward = RewardPool(config.reward)
            started.callback(self.reward.close)
            self.rollout.wait_until_ready()
            # Only now: until here an error closes all that has started, in reverse order, the cluster last.
            self._started = started.pop_all()

    def __enter__(self) -> "Services":
        return self

    def __exit__(self, *error: object) -> None:
        self._started.close()

    @property
    def rollout(self) -> RolloutPool:
        """The policy's workers, started if none are there."""
        return self._rollout or self.start_rollout()

    @property
    def groups(self) -> ScoredRollouts:
        """The source of groups that the policy's workers generate and the reward scores."""
        pool = self.rollout
        self._groups = self._groups or ScoredRollouts(pool, self.reward)
        return self._groups

    def start_rollout(self) -> RolloutPool:
        """Return the policy's workers, which start in the background."""
        self._rollout = RolloutPool(self._config.rollout, EngineLauncher(self._config.model, self._engine_model))
        self._groups = None
        return self._rollout

    def end_rollout(self, next_model: str) -> None:
        """Close the policy's workers, so that other models can have their place; the next ones start with `next_model`."""
        self._engine_model = next_model
        if self._rollout is not None:
            self._rollout.close()
            self._rollout = self._groups = None  # both: they hold the last weights in the object store

    def take_spans(self) -> list[ActorSpans]:
        """Return each actor's spans since the last call, in the same order each time; none of one that does not answer."""
        # Asked before the rollout workers are awaited, so that the waits overlap.
        asked = {"reward actor": self.reward.take_spans(), "learner rank": self.learner.ranks.take_spans()}
        kinds = {"rollout worker": self.rollout.take_spans(SPANS_S)}
        refs = [ref for its_refs in asked.values() for ref in its_refs]
        ray.wait(refs, num_returns=len(refs), timeout=SPANS_S)
        kinds |= {kind: [_spans_of(ref) for ref in its_refs] for kind, its_refs in asked.items()}
        return [
            ActorSpans(kind=kind, number=number, spans=spans) for kind, its_spans in kinds.items() for number, spans in enumerate(its_spans)
        ]


def _spans_of(asked: "ray.ObjectRef[tuple[Span, ...]]") -> tuple[Span, ...]:
    try:
        return ray.get(asked, timeout=0)
    except (GetTimeoutError, RayError):  # it died, and its spans with it, or is being replaced: the next call to it says so
        return ()
