"""The rollout service: one Ray actor per vLLM engine, and the pool that feeds and heals them."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from actors.worker import Ended, RolloutWorker
from ovt_ray.config import ModelConfig, RolloutConfig
from ovt_ray.errors import RolloutError
from ovt_ray.types import Completion, Problem, RolloutGroup, Sampling, Weights

KEPT_HEAP = {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776:glibc.malloc.arena_max=1"}
"""Environment of a CPU engine: a weight update frees and takes matrices one after the other, from a heap that is kept and not from
pages that the kernel has to clear each time, which takes longer than the copying."""
MAX_REPLACEMENTS = 3
"""Workers that may die in one call of `generate` before the pool gives up."""


OnCompletion = Callable[[Problem, int, Completion], None]
"""Told of each completion, with its index in the group, as it ends."""


def _unheard(problem: Problem, index: int, completion: Completion) -> None:
    """For callers who wait for whole groups."""


@dataclass(eq=False)
class _Seat:
    """One worker's place in the pool; the actor in it may be replaced."""

    actor: ActorHandle
    tokens_in_flight: int = 0


@dataclass(eq=False)
class _Request:
    """A problem on its way through a worker, and what has come back of it."""

    problem: Problem
    seat: _Seat
    due_at: float
    """On the clock of `time.monotonic`."""
    ended: list[Ended] = field(default_factory=list)

    def group(self) -> RolloutGroup:
        """Return the group of all that came back, in the order of the indices."""
        completions = tuple(one.completion for one in sorted(self.ended, key=lambda one: one.index))
        return RolloutGroup(problem=self.problem, prompt_ids=self.ended[0].prompt_ids, completions=completions)


class RolloutPool:
    """Generates completions on every worker at once, and keeps them at the current weights."""

    def __init__(self, config: RolloutConfig, model: ModelConfig, model_path: str) -> None:
        """Start the workers; returns at once. `wait_until_ready` or the first call waits for them."""
        self.config = config
        self.model = model
        self.model_path = model_path
        self._weights: Weights | None = None
        self._seats = [_Seat(self._launch()) for _ in range(config.num_workers)]
        self._requests: dict[str, _Request] = {}
        """By the id of the problem."""
        self._streams: dict[ray.ObjectRefGenerator, _Seat] = {}
        """What running calls to the workers bring; one ends when all problems of its call are answered."""

    def wait_until_ready(self) -> None:
        """Return when every engine answers; raises RolloutError with the reason when one cannot start."""
        self._gather([seat.actor.ready.remote() for seat in self._seats], "start")

    def generate(self, problems: Sequence[Problem], sampling: Sampling, on_completion: OnCompletion = _unheard) -> Iterator[RolloutGroup]:
        """Yield each problem's group as it finishes, in any order, each exactly once; `on_completion` hears of its parts before.

        Ids of problems must differ. A worker that dies is replaced and its unfinished problems are generated again, all G
        completions, of which `on_completion` then hears again. Raises RolloutError when an engine refuses a problem, a group
        takes longer than the deadline, or workers keep dying.
        """
        pending = deque(problems)
        num_replaced = 0
        try:
            while pending or self._requests:
                self._dispatch(pending, sampling)
                for stream in self._with_news():
                    if (seat := self._streams.get(stream)) is None:
                        continue  # its worker died a moment ago
                    try:
                        ended = ray.get(next(stream))
                    except StopIteration:
                        del self._streams[stream]
                    except RayTaskError as error:
                        raise RolloutError(str(error.cause)) from error
                    except RayError as error:  # the worker died, whatever of
                        num_replaced += 1
                        pending.extend(self._take_back(seat))
                        self._replace(seat, error, num_replaced)
                    else:
                        yield from self._finished(ended, sampling, on_completion)
        finally:
            self._abandon()

    def _dispatch(self, pending: deque[Problem], sampling: Sampling) -> None:
        """Hand out problems, each to the worker with the fewest tokens in flight, while any has room."""
        tokens = _tokens(sampling)
        room = max(tokens, self.config.max_num_seqs * sampling.max_tokens)
        batches: dict[_Seat, list[Problem]] = {}
        while pending:
            seat = min(self._seats, key=lambda seat: seat.tokens_in_flight)
            if seat.tokens_in_flight + tokens > room:
                break
            problem = pending.popleft()
            batches.setdefault(seat, []).append(problem)
            self._requests[problem.id] = _Request(problem, seat, time.monotonic() + self.config.deadline_s)
            seat.tokens_in_flight += tokens
        for seat, batch in batches.items():
            self._streams[seat.actor.generate.options(num_returns="streaming").remote(batch, sampling)] = seat

    def _with_news(self) -> "list[ray.ObjectRefGenerator]":
        """Return the streams that have a next part, or have ended, waiting for the first."""
        streams = list(self._streams)
        oldest = min(self._requests.values(), key=lambda request: request.due_at)
        left_s = oldest.due_at - time.monotonic()
        if left_s > 0:
            ray.wait(streams, num_returns=1, timeout=left_s, fetch_local=False)
        ready, _ = ray.wait(streams, num_returns=len(streams), timeout=0, fetch_local=False)
        if time.monotonic() > oldest.due_at and not any(self._streams[stream] is oldest.seat for stream in ready):
            raise RolloutError(
                f"problem {oldest.problem.id}: only {len(oldest.ended)} of its completions ended within "
                f"rollout.deadline_s={self.config.deadline_s:g} s: raise it or shorten answers"
            )
        return ready

    def _finished(self, ended: Sequence[Ended], sampling: Sampling, on_completion: OnCompletion) -> Iterator[RolloutGroup]:
        """Take in what a worker's stream brought; yield the groups that it completes."""
        for one in ended:
            request = self._requests[one.problem_id]
            request.ended.append(one)
            on_completion(request.problem, one.index, one.completion)
            if len(request.ended) == sampling.num_completions:
                del self._requests[one.problem_id]
                request.seat.tokens_in_flight -= _tokens(sampling)
                yield request.group()

    def _take_back(self, seat: _Seat) -> list[Problem]:
        """Return the problems of a worker that will not finish them."""
        self._streams = {stream: owner for stream, owner in self._streams.items() if owner is not seat}
        lost = [request.problem for request in self._requests.values() if request.seat is seat]
        for problem in lost:
            del self._requests[problem.id]
        return lost

    def _abandon(self) -> None:
        for stream in self._streams:
            ray.cancel(stream)
        self._streams.clear()
        self._requests.clear()
        for seat in self._seats:
            seat.tokens_in_flight = 0

    def _replace(self, seat: _Seat, error: Exception, replacements: int) -> None:
        """Put a new worker with the current weights into a dead one's seat."""
        if replacements > MAX_REPLACEMENTS:
            raise RolloutError(f"{replacements} rollout workers died in a row, the last one: {error}") from error
        seat.tokens_in_flight = 0
        ray.kill(seat.actor)
        seat.actor = self._launch()
        if self._weights is not None:
            self._gather([self._load(seat.actor, self._weights)], "load weights")

    def load_weights(self, weights: Weights) -> None:
        """Return when every engine serves the version; a worker that dies or fails meanwhile is replaced."""
        self._weights = weights
        replacements = 0
        due_at = time.monotonic() + self.config.deadline_s
        for seat, ref in [(seat, self._load(seat.actor, weights)) for seat in self._seats]:
            try:
                ray.get(ref, timeout=max(0.0, due_at - time.monotonic()))
            except RayError as error:  # died, refused the weights, or let the deadline pass in the middle of an update
                replacements += 1
                self._replace(seat, error, replacements)

    def _load(self, actor: ActorHandle, weights: Weights) -> ray.ObjectRef:
        return actor.load_weights.remote(weights.version, list(weights.buckets), dict(weights.checksums))

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
        environment = engine_environment(self.config.cpus_per_worker) | ({} if self.config.gpus_per_worker else KEPT_HEAP)
        remote = ray.remote(
            num_cpus=self.config.cpus_per_worker,
            num_gpus=self.config.gpus_per_worker,
            max_concurrency=1000,
            runtime_env={"env_vars": environment},
        )(RolloutWorker)
        return remote.remote(self.model_path, self.model, self.config)

    def close(self) -> None:
        """End every worker and its engine."""
        closing = [seat.actor.close.remote() for seat in self._seats]
        ray.wait(closing, num_returns=len(closing), timeout=10)
        for seat in self._seats:
            ray.kill(seat.actor)
        self._seats = []


def _tokens(sampling: Sampling) -> int:
    """Return the tokens that a problem's completions may take."""
    return sampling.num_completions * sampling.max_tokens


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
