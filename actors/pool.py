"""The rollout service: one Ray actor per vLLM engine, and the pool that feeds and heals them."""

import math
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
GRACE_S = 1.0
"""Longest wait for news of a problem whose deadline has passed."""
MAX_LOSSES = 3
"""Workers that may die while they have a problem before the pool gives up."""


OnCompletion = Callable[[Problem, int, Completion], None]
"""Told of each completion, with its index in the group, as it ends."""
OnGroup = Callable[[RolloutGroup], None]
"""Told of each group when its last completion has ended."""


def _unheard(problem: Problem, index: int, completion: Completion) -> None:
    """For callers who wait for whole groups."""


@dataclass(eq=False)
class _Seat:
    """One worker's place in the pool; the actor in it may be replaced."""

    actor: ActorHandle
    tokens_in_flight: int = 0


@dataclass(eq=False, kw_only=True)
class _Request:
    """A problem that waits for a worker, or is on its way through one, and what has come back of it."""

    problem: Problem
    sampling: Sampling
    on_group: OnGroup
    on_completion: OnCompletion
    num_lost: int = 0
    """Workers that died while they had it."""
    due_at: float = math.inf
    """On the clock of `time.monotonic`, once a worker has it."""
    ended: list[Ended] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """Tokens that all completions may take."""
        return self.sampling.num_completions * self.sampling.max_tokens

    def group(self) -> RolloutGroup:
        """Return the group of all that came back, in the order of the indices."""
        completions = tuple(one.completion for one in sorted(self.ended, key=lambda one: one.index))
        return RolloutGroup(problem=self.problem, prompt_ids=self.ended[0].prompt_ids, completions=completions)


@dataclass(eq=False)
class _Call:
    """A call to a worker, which streams back what ends."""

    seat: _Seat
    requests: dict[str, _Request]
    """Those that are not finished, by the id of their problem."""


class RolloutPool:
    """Generates completions on every worker at once, and keeps them at the current weights."""

    def __init__(self, config: RolloutConfig, model: ModelConfig, model_path: str) -> None:
        """Start the workers; returns at once. `wait_until_ready` or the first call waits for them."""
        self.config = config
        self.model = model
        self.model_path = model_path
        self._weights: Weights | None = None
        self._seats = [_Seat(self._launch()) for _ in range(config.num_workers)]
        self._pending: deque[_Request] = deque()
        """Requests that no worker has."""
        self._calls: dict[ray.ObjectRefGenerator, _Call] = {}
        """By what they bring; a call ends when all its requests are answered."""

    def wait_until_ready(self) -> None:
        """Return when every engine answers; raises RolloutError with the reason when one cannot start."""
        self._gather([seat.actor.ready.remote() for seat in self._seats], "start")

    def generate(self, problems: Sequence[Problem], sampling: Sampling, on_completion: OnCompletion = _unheard) -> Iterator[RolloutGroup]:
        """Yield each problem's group as it finishes, in any order, each exactly once; `on_completion` hears of its parts before.

        For a caller who has the pool for itself. Errors are those of `poll`.
        """
        finished: deque[RolloutGroup] = deque()
        try:
            self.submit(problems, sampling, finished.append, on_completion)
            for _ in problems:
                while not finished:
                    self.poll()
                yield finished.popleft()
        finally:
            self.abandon()

    def submit(self, problems: Sequence[Problem], sampling: Sampling, on_group: OnGroup, on_completion: OnCompletion = _unheard) -> None:
        """Take in problems, whose ids must differ, and hand them out as there is room; `poll` tells of what comes back.

        `on_completion` hears of each completion before `on_group` does of the group. A worker that dies is replaced and its
        unfinished problems are generated again, all G completions, of which `on_completion` then hears again.
        """
        assert len({problem.id for problem in problems}) == len(problems), "two problems of one call have the same id"
        requests = [_Request(problem=problem, sampling=sampling, on_group=on_group, on_completion=on_completion) for problem in problems]
        self._pending.extend(requests)
        self._dispatch()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being generated or waits to be."""
        return not self._pending and not self._calls

    def poll(self, timeout_s: float = math.inf) -> None:
        """Wait for news of what was submitted, at most so long, and tell of it; returns at once if nothing was.

        Raises RolloutError when an engine refuses a problem, a group takes longer than the deadline, or workers keep dying of a problem.
        """
        for stream in self._with_news(timeout_s):
            if (call := self._calls.get(stream)) is None:
                continue  # its worker died a moment ago
            try:
                ended = ray.get(next(stream))
            except StopIteration:
                assert not call.requests, f"a worker ended its call without an answer to {list(call.requests)}"
                del self._calls[stream]
            except RayTaskError as error:
                raise RolloutError(str(error.cause)) from error
            except RayError as error:  # the worker died, whatever of
                self._replace(call.seat, error)
            else:
                self._take_in(call, ended)
        self._dispatch()

    def abandon(self) -> None:
        """Give up all that was submitted and is not finished."""
        for stream in self._calls:
            ray.cancel(stream)
        self._calls.clear()
        self._pending.clear()
        for seat in self._seats:
            seat.tokens_in_flight = 0

    def _dispatch(self) -> None:
        """Hand out requests, each to the worker with the fewest tokens in flight, while any has room."""
        batches: dict[tuple[_Seat, Sampling], list[_Request]] = {}
        while self._pending:
            request = self._pending[0]
            seat = min(self._seats, key=lambda seat: seat.tokens_in_flight)
            room = max(request.num_tokens, self.config.max_num_seqs * request.sampling.max_tokens)
            if seat.tokens_in_flight + request.num_tokens > room:
                break
            self._pending.popleft()
            request.due_at = time.monotonic() + self.config.deadline_s
            batches.setdefault((seat, request.sampling), []).append(request)
            seat.tokens_in_flight += request.num_tokens
        for (seat, sampling), requests in batches.items():
            call = seat.actor.generate.options(num_returns="streaming").remote([request.problem for request in requests], sampling)
            self._calls[call] = _Call(seat, {request.problem.id: request for request in requests})

    def _with_news(self, timeout_s: float) -> "list[ray.ObjectRefGenerator]":
        """Return the streams that have a next part, or have ended, waiting for the first."""
        if not self._calls:
            return []
        streams = list(self._calls)
        in_work = [(request.due_at, request, call) for call in self._calls.values() for request in call.requests.values()]
        due_at, oldest, its_call = min(in_work, key=lambda one: one[0], default=(math.inf, None, None))
        wait_s = min(max(GRACE_S, due_at - time.monotonic()), timeout_s)  # what ended while nobody listened is heard first
        ray.wait(streams, num_returns=1, timeout=None if wait_s == math.inf else wait_s, fetch_local=False)
        ready, _ = ray.wait(streams, num_returns=len(streams), timeout=0, fetch_local=False)
        if oldest and time.monotonic() > due_at and not any(self._calls[stream] is its_call for stream in ready):
            raise RolloutError(
                f"problem {oldest.problem.id}: only {len(oldest.ended)} of its completions ended within "
                f"rollout.deadline_s={self.config.deadline_s:g} s: raise it or shorten answers"
            )
        return ready

    def _take_in(self, call: _Call, ended: Sequence[Ended]) -> None:
        """Take in what a worker's stream brought, and tell of it."""
        for one in ended:
            request = call.requests[one.problem_id]
            request.ended.append(one)
            request.on_completion(request.problem, one.index, one.completion)
            if len(request.ended) == request.sampling.num_completions:
                del call.requests[one.problem_id]
                call.seat.tokens_in_flight -= request.num_tokens
                request.on_group(request.group())

    def _replace(self, seat: _Seat, error: Exception) -> None:
        """Put a new worker with the current weights into a dead one's seat; what it had not finished is generated again, first."""
        lost = [request for call in self._calls.values() if call.seat is seat for request in call.requests.values()]
        self._calls = {stream: call for stream, call in self._calls.items() if call.seat is not seat}
        for request in lost:
            request.ended.clear()
            request.num_lost += 1
            if request.num_lost > MAX_LOSSES:
                raise RolloutError(
                    f"problem {request.problem.id}: {request.num_lost} rollout workers died while they had it, the last one: {error}"
                ) from error
        self._pending.extendleft(reversed(lost))
        seat.tokens_in_flight = 0
        ray.kill(seat.actor)
        seat.actor = self._launch()
        if self._weights is not None:
            self._gather([self._load(seat.actor, self._weights)], "load weights")

    def load_weights(self, weights: Weights) -> None:
        """Return when every engine serves the version; a worker that dies or fails meanwhile is replaced."""
        self._weights = weights
        began = time.monotonic()
        due_at = began + self.config.deadline_s
        for seat, ref in [(seat, self._load(seat.actor, weights)) for seat in self._seats]:
            try:
                ray.get(ref, timeout=max(0.0, due_at - time.monotonic()))
            except RayError as error:  # died, refused the weights, or let the deadline pass in the middle of an update
                self._replace(seat, error)
        for call in self._calls.values():
            for request in call.requests.values():  # generation stood still
                request.due_at += time.monotonic() - began

    def _load(self, actor: ActorHandle, weights: Weights) -> ray.ObjectRef:
        return actor.load_weights.remote(weights)

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
        threads = self.config.cpus_per_worker // self.config.tensor_parallel
        environment = engine_environment(threads) | ({} if self.config.gpus_per_worker else KEPT_HEAP)
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


def engine_environment(num_threads: int) -> dict[str, str]:
    """Return the environment of a process that hosts an engine, or a part of one."""
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
