"""The rollout service: one Ray actor per vLLM engine, and the pool that feeds and heals them."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from actors.worker import RolloutWorker
from ovt_ray.config import ModelConfig, RolloutConfig
from ovt_ray.errors import RolloutError
from ovt_ray.types import Problem, RolloutGroup, Sampling, Weights

MAX_REPLACEMENTS = 3
"""Workers that may die in one call of `generate` before the pool gives up."""


@dataclass(eq=False)
class _Seat:
    """One worker's place in the pool; the actor in it may be replaced."""

    actor: ActorHandle
    tokens_in_flight: int = 0
    waiting: dict[ray.ObjectRef, Problem] = field(default_factory=dict)


class RolloutPool:
    """Generates completions on every worker at once, and keeps them at the current weights."""

    def __init__(self, config: RolloutConfig, model: ModelConfig, model_path: str) -> None:
        """Start the workers; returns at once. `wait_until_ready` or the first call waits for them."""
        self.config = config
        self.model = model
        self.model_path = model_path
        self._weights: Weights | None = None
        self._seats = [_Seat(self._launch()) for _ in range(config.num_workers)]

    def wait_until_ready(self) -> None:
        """Return when every engine answers; raises RolloutError with the reason when one cannot start."""
        self._gather([seat.actor.ready.remote() for seat in self._seats], "start")

    def generate(self, problems: Sequence[Problem], sampling: Sampling) -> Iterator[RolloutGroup]:
        """Yield each problem's group as it finishes, in any order, each exactly once.

        A worker that dies is replaced and its problems are generated again. Raises RolloutError when an engine refuses a
        problem, a group takes longer than the deadline, or workers keep dying.
        """
        pending = deque(problems)
        replacements = 0
        try:
            while pending or any(seat.waiting for seat in self._seats):
                self._dispatch(pending, sampling)
                for seat, ref in self._finished():
                    problem = seat.waiting.pop(ref)
                    seat.tokens_in_flight -= sampling.num_completions * sampling.max_tokens
                    try:
                        group = ray.get(ref)
                    except RayTaskError as error:
                        raise RolloutError(f"problem {problem.id}: {error.cause}") from error
                    except RayError as error:  # the worker died, whatever of
                        pending.append(problem)
                        pending.extend(seat.waiting.values())
                        replacements += 1
                        self._replace(seat, error, replacements)
                        break
                    yield group
        finally:
            self._abandon()

    def _dispatch(self, pending: deque[Problem], sampling: Sampling) -> None:
        """Hand out problems, each to the worker with the fewest tokens in flight, while any has room."""
        tokens = sampling.num_completions * sampling.max_tokens
        room = max(tokens, self.config.max_num_seqs * sampling.max_tokens)
        while pending:
            seat = min(self._seats, key=lambda seat: seat.tokens_in_flight)
            if seat.tokens_in_flight + tokens > room:
                return
            problem = pending.popleft()
            seat.waiting[seat.actor.generate.remote(problem, sampling)] = problem
            seat.tokens_in_flight += tokens

    def _finished(self) -> list[tuple[_Seat, ray.ObjectRef]]:
        owners = {ref: seat for seat in self._seats for ref in seat.waiting}
        refs = list(owners)
        ready, _ = ray.wait(refs, num_returns=1, timeout=self.config.deadline_s, fetch_local=False)
        if not ready:
            raise RolloutError(f"no completion within rollout.deadline_s={self.config.deadline_s:g} s: raise it or shorten answers")
        more, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        return [(owners[ref], ref) for ref in more]

    def _abandon(self) -> None:
        for seat in self._seats:
            for ref in seat.waiting:
                ray.cancel(ref)
            seat.waiting.clear()
            seat.tokens_in_flight = 0

    def _replace(self, seat: _Seat, error: Exception, replacements: int) -> None:
        """Put a new worker with the current weights into a dead one's seat."""
        if replacements > MAX_REPLACEMENTS:
            raise RolloutError(f"{replacements} rollout workers died in a row, the last one: {error}") from error
        seat.waiting.clear()
        seat.tokens_in_flight = 0
        ray.kill(seat.actor)
        seat.actor = self._launch()
        if self._weights is not None:
            self._gather([self._load(seat.actor, self._weights)], "load weights")

    def load_weights(self, weights: Weights) -> None:
        """Return when every engine serves the version; a worker that dies or fails meanwhile is replaced."""
        self._weights = weights
        replacements = 0
        for seat, ref in [(seat, self._load(seat.actor, weights)) for seat in self._seats]:
            try:
                ray.get(ref, timeout=self.config.deadline_s)
            except RayError as error:  # died, refused the weights, or let the deadline pass in the middle of an update
                replacements += 1
                self._replace(seat, error, replacements)

    def _load(self, actor: ActorHandle, weights: Weights) -> ray.ObjectRef:
        return actor.load_weights.remote(weights.version, weights.payload, dict(weights.checksums))

    def weight_checksums(self) -> list[dict[str, str]]:
        """Return each worker's digests of its engine's parameters."""
        return self._gather([seat.actor.weight_checksums.remote() for seat in self._seats], "compute checksums")

    def process_ids(self) -> list[int]:
        """Return each worker's process id."""
        return self._gather([seat.actor.ready.remote() for seat in self._seats], "answer")

    def _gather(self, refs: list[ray.ObjectRef], what: str) -> list:
        try:
            return ray.get(refs, timeout=self.config.deadline_s)
        except GetTimeoutError as error:
            raise RolloutError(
                f"rollout workers did not {what} within rollout.deadline_s={self.config.deadline_s:g} s; asked for "
                f"{self.config.num_workers} x (CPU {self.config.cpus_per_worker}, GPU {self.config.gpus_per_worker}), "
                f"the cluster has {_amounts(ray.cluster_resources())}, free are {_amounts(ray.available_resources())}"
            ) from error
        except RayError as error:
            raise RolloutError(f"a rollout worker could not {what}: {error}") from error

    def _launch(self) -> ActorHandle:
        """Return a new worker actor, its engine starting."""
        remote = ray.remote(
            num_cpus=self.config.cpus_per_worker,
            num_gpus=self.config.gpus_per_worker,
            max_concurrency=1000,
            runtime_env={"env_vars": engine_environment(self.config.cpus_per_worker)},
        )(RolloutWorker)
        return remote.remote(self.model_path, self.model, self.config)

    def close(self) -> None:
        """End every worker and its engine."""
        closing = [seat.actor.close.remote() for seat in self._seats]
        ray.wait(closing, num_returns=len(closing), timeout=10)
        for seat in self._seats:
            ray.kill(seat.actor)
        self._seats = []


def engine_environment(num_threads: int) -> dict[str, str]:
    """Return the environment of a process that hosts an engine."""
    return {
        "OMP_NUM_THREADS": str(num_threads),
        "OMP_WAIT_POLICY": "passive",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        # A CPU engine of one worker then runs it in the engine's own process, not in a third one.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _amounts(resources: dict[str, float]) -> str:
    return ", ".join(f"{name} {resources.get(name, 0):g}" for name in ("CPU", "GPU"))
