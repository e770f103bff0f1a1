"""The rollout service: one Ray actor per vLLM engine, and the pool that feeds and heals them."""

import heapq
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count, groupby
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from actors.collector import Line, Order
from actors.placed import Worker, launched
from actors.seats import Call, OnCompletions, OnGroup, Request, Seat
from actors.worker import Ended
from ovt_ray.core.config.run import ModelConfig, RolloutConfig
from ovt_ray.core.errors import RolloutError
from ovt_ray.core.spans import Span
from ovt_ray.core.types import Problem, RolloutGroup, Sampling
from ovt_ray.core.weights.meeting import Meeting
from ovt_ray.core.weights.transport import PublishedVersion
from ovt_ray.core.weights.version import Weights

MAX_LOSSES = 3
"""Workers that may die while they have a problem before the pool gives up."""
AHEAD = 0.25
"""What an engine is handed beyond what it decodes at a time, as a share of it: a sequence that ends is followed at once, and not when the
pool has heard of it."""
WORKERS_PER_COLLECTOR = 512
GATHER_S = 0.05
"""How long news wait for others on their way to the driver, which hears so often, from one collector or another, at most."""
GATHER_S_PER_WORKER = 1e-4
"""News of more than 500 workers wait so long for each: something always ends somewhere, and to hear costs the driver a millisecond."""
CHECK_S = 1.0
"""Time between two looks at the deadlines."""
ANSWER_S = 10.0
"""What a collector may take to say which workers were not done at a deadline."""


def _unheard(problem: Problem, ended: Sequence[Ended]) -> None:
    """For callers who wait for whole groups."""


class RolloutPool:
    """Generates completions on every worker at once, and keeps them at the current weights."""

    def __init__(self, config: RolloutConfig, model: ModelConfig, model_path: str) -> None:
        """Start the workers; returns at once. `wait_until_ready` or the first call waits for them."""
        self.config = config
        self.model = model
        self.model_path = model_path
        self._published: PublishedVersion | None = None
        """The version that workers serve; None while they serve the weights of their start."""
        num_lines = math.ceil(config.num_workers / WORKERS_PER_COLLECTOR)
        gather_s = num_lines * max(GATHER_S, config.num_workers * GATHER_S_PER_WORKER)
        self._lines = [Line(gather_s) for _ in range(num_lines)]
        self._seats = [
            Seat(number=number, worker=self._launch(), line=self._lines[number % num_lines]) for number in range(config.num_workers)
        ]
        for line in self._lines:
            self._introduce(line)
        self._may_have_room = set(self._seats)
        """All seats but those that had no room for what was handed out last, and of whose work none has ended since."""
        self._joining: dict[ray.ObjectRef, Seat] = {}
        """Seats of successors that do not serve the current weights, by what says that they do."""
        self._pending: deque[Request] = deque()
        """Requests that no worker has."""
        self._calls: dict[int, Call] = {}
        """Those that are not finished, by their number."""
        self._numbers = count()
        self._checked_at = -math.inf

    def wait_until_ready(self) -> None:
        """Return when every engine answers; raises RolloutError with the reason when one cannot start."""
        self._gather([seat.worker.actor.ready.remote() for seat in self._seats], "start", self.config.deadline_s)

    def generate(self, problems: Sequence[Problem], sampling: Sampling, on_completions: OnCompletions = _unheard) -> Iterator[RolloutGroup]:
        """Yield each problem's group as it finishes, in any order, each exactly once; `on_completions` hears of its parts before.

        For a caller who has the pool for itself. Errors are those of `poll`.
        """
        finished: deque[RolloutGroup] = deque()
        try:
            self.submit(problems, sampling, finished.append, on_completions)
            for _ in problems:
                while not finished:
                    self.poll()
                yield finished.popleft()
        finally:
            self.abandon()

    def submit(
        self,
        problems: Sequence[Problem],
        sampling: Sampling,
        on_group: OnGroup,
        on_completions: OnCompletions = _unheard,
        *,
        are_awaited: bool = False,
    ) -> None:
        """Take in problems, whose ids must differ, and hand them out as there is room, before all others if they are awaited.

        `poll` tells of what comes back.
        `on_completions` hears of each completion before `on_group` does of the group. A worker that dies is replaced and its
        unfinished problems are generated again, all G completions, of which `on_completions` then hears again.
        """
        assert len({problem.id for problem in problems}) == len(problems), "two problems of one call have the same id"
        requests = [Request(problem=problem, sampling=sampling, on_group=on_group, on_completions=on_completions) for problem in problems]
        if are_awaited:
            self._pending.extendleft(reversed(requests))
        else:
            self._pending.extend(requests)
        self._dispatch()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being generated or waits to be."""
        return not self._pending and not self._calls

    def poll(self, timeout_s: float = math.inf) -> None:
        """Wait for news of what was submitted, at most so long, and tell of it; returns at once if nothing was, and may return without.

        Raises RolloutError when an engine refuses a problem, a group takes longer than the deadline, or workers keep dying of a problem.
        """
        if self.is_idle:
            return
        awaited = [*(line.news for line in self._lines), *self._joining]
        ray.wait(awaited, num_returns=1, timeout=None if timeout_s == math.inf else timeout_s, fetch_local=False)
        ready = set(ray.wait(awaited, num_returns=len(awaited), timeout=0, fetch_local=False)[0])
        try:
            for joined in ready & self._joining.keys():
                self._admit(joined)
            for line in self._lines:
                if line.news in ready:
                    self._hear(line)
            self._check_deadlines()
            self._dispatch()
        finally:
            for line in self._lines:
                line.listen()

    def _hear(self, line: Line) -> None:
        """Take in a collector's news; one that died is replaced, and what its workers had not finished is generated again."""
        try:
            told = line.hear()
        except RayError as error:
            self._reopen(line, error)
            return
        for news in told:
            if (call := self._calls.get(news.call)) is None:
                continue  # its worker died a moment ago
            if news.refusal:
                raise RolloutError(news.refusal)
            if news.death:
                self._replace(call.seat, RolloutError(news.death))
            else:
                self._take_in(news.call, call, news.ended)

    def _reopen(self, line: Line, error: Exception) -> None:
        """Put a collector into a dead one's place; what its workers had not finished is generated again."""
        line.open()
        self._introduce(line)
        for seat in self._seats:
            if seat.line is line:
                self._take_back(seat, error)

    def abandon(self) -> None:
        """Give up all that was submitted and is not finished."""
        first_call = next(self._numbers)
        for line in self._lines:
            line.collector.abandon.remote(first_call)
        self._calls.clear()
        self._pending.clear()
        for seat in self._seats:
            seat.calls.clear()
            seat.tokens_in_flight = 0
        self._may_have_room.update(self._seats)

    def _dispatch(self) -> None:
        """Hand out requests, each to the worker with the fewest tokens in flight, while any has room."""
        if not self._pending:
            return
        candidates = {seat for seat in self._may_have_room if not seat.is_behind} - set(self._joining.values())
        loads = [(seat.tokens_in_flight, seat.number, seat) for seat in candidates]  # no two numbers are alike
        heapq.heapify(loads)
        batches: dict[tuple[Seat, Sampling], list[Request]] = {}
        due_at = time.monotonic() + self.config.deadline_s
        while self._pending and loads:
            request = self._pending[0]
            tokens_in_flight, number, seat = loads[0]
            if tokens_in_flight >= (1 + AHEAD) * self.config.max_num_seqs * request.sampling.max_tokens:
                self._may_have_room -= candidates
                break
            self._pending.popleft()
            request.due_at = due_at
            batches.setdefault((seat, request.sampling), []).append(request)
            heapq.heapreplace(loads, (tokens_in_flight + request.num_tokens, number, seat))
        self._call([(seat, sampling, requests) for (seat, sampling), requests in batches.items()])

    def _call(self, batches: "Sequence[tuple[Seat, Sampling, Sequence[Request]]]") -> None:
        """Call workers with requests, in one message to each collector."""
        orders: dict[Line, list[Order]] = {}
        for seat, sampling, requests in batches:
            call = Call(seat, {request.problem.id: request for request in requests})
            number = next(self._numbers)
            self._calls[number] = seat.calls[number] = call
            seat.tokens_in_flight += sum(request.num_tokens for request in requests)
            problems = tuple(request.problem for request in requests)
            orders.setdefault(seat.line, []).append(Order(call=number, seat=seat.number, problems=problems, sampling=sampling))
        for line, its_orders in orders.items():
            line.ask(its_orders)

    def _check_deadlines(self) -> None:
        """Raise RolloutError if a successor is late, or a problem of which its collector, asked since, does not say that it has ended."""
        now = time.monotonic()
        if now < self._checked_at + CHECK_S:
            return
        self._checked_at = now
        for joined in [joined for joined, seat in self._joining.items() if seat.joins_by < now]:
            self._admit(joined)
        for call in self._calls.values():
            for request in call.requests.values():
                # A collector always answers: one that does not for so long is stuck.
                if request.due_at < call.seat.line.heard_at or call.seat.line.asked_at + self.config.deadline_s < now:
                    raise RolloutError(
                        f"problem {request.problem.id}: only {len(request.ended)} of its completions ended within "
                        f"rollout.deadline_s={self.config.deadline_s:g} s: raise it or shorten answers"
                    )

    def _take_in(self, number: int, call: Call, ended: Sequence[Ended]) -> None:
        """Take in what a worker's call brought, and tell of it."""
        self._may_have_room.add(call.seat)
        for problem_id, parts in groupby(sorted(ended, key=_place), key=lambda one: one.problem_id):
            request = call.requests[problem_id]
            together = list(parts)
            request.ended += together
            call.seat.tokens_in_flight -= len(together) * request.sampling.max_tokens
            request.on_completions(request.problem, together)
            if len(request.ended) == request.sampling.num_completions:
                del call.requests[problem_id]
                request.on_group(request.group())
        if not call.requests:
            del self._calls[number], call.seat.calls[number]

    def _take_back(self, seat: Seat, error: Exception) -> None:
        """Put what a worker has not finished before all that waits for one."""
        lost = [request for call in seat.calls.values() for request in call.requests.values()]
        for number in seat.calls:
            del self._calls[number]
        self._may_have_room.add(seat)
        seat.calls.clear()
        seat.tokens_in_flight = 0
        for request in lost:
            request.ended.clear()
            request.num_lost += 1
            if request.num_lost > MAX_LOSSES:
                raise RolloutError(
                    f"problem {request.problem.id}: {request.num_lost} rollout workers died while they had it, the last one: {error}"
                ) from error
        self._pending.extendleft(reversed(lost))

    def _replace(self, seat: Seat, error: Exception) -> None:
        """Put a new worker into a dead one's seat, where it has work once it serves the current weights; others have the dead one's."""
        self._take_back(seat, error)
        self._joining = {ref: joining for ref, joining in self._joining.items() if joining is not seat}
        seat.worker.end()
        seat.worker = self._launch()
        seat.line.seat({seat.number: seat.worker.actor})
        seat.joins_by = time.monotonic() + self.config.deadline_s
        stored = self._published.for_late_joiner() if self._published else None
        seat.is_behind = self._published is not None and stored is None
        self._joining[seat.worker.actor.load_weights.remote(stored) if stored else seat.worker.actor.ready.remote()] = seat

    def _admit(self, joined: ray.ObjectRef) -> None:
        """Let a successor have work; raises RolloutError if it died, or refused the weights."""
        limit_s = max(0.0, self._joining[joined].joins_by - time.monotonic())
        self._gather([joined], "load weights" if self._published else "start", limit_s)
        del self._joining[joined]

    def _introduce(self, line: Line) -> None:
        """Tell a collector whom it calls."""
        line.seat({seat.number: seat.worker.actor for seat in self._seats if seat.line is line})

    def load_weights(self, published: PublishedVersion) -> None:
        """Return when every engine serves the version; a worker that dies or fails meanwhile is replaced."""
        self._wait_for_successors()
        self._published = published  # first: a worker that is replaced during the delivery loads this version
        for seat in self._seats:
            seat.is_behind = False
        began = time.monotonic()
        published.deliver(self)
        self._wait_for_successors()
        for call in self._calls.values():
            for request in call.requests.values():  # generation stood still
                request.due_at += time.monotonic() - began

    @property
    def members(self) -> list[Any]:
        """The actor in each seat."""
        return [seat.worker.actor for seat in self._seats]

    @property
    def num_processes(self) -> int:
        """Count of the processes of each worker's engine."""
        return self.config.num_shards

    @property
    def deadline_s(self) -> float:
        """Longest time that a worker may take to load a version."""
        return self.config.deadline_s

    def pull(self, weights: Weights) -> dict[int, str]:
        """Have all workers load a version from the object store; replace those who fail, and return why they failed, by seat."""
        due_at = time.monotonic() + self.config.deadline_s
        failures: dict[int, str] = {}
        loading = {line: line.load_weights(weights, self.config.deadline_s) for line in self._lines}
        for line, loaded in loading.items():
            of_line = self._failures(line, loaded, weights, due_at)
            for number, failure in of_line.items():  # replaced even if it lives: it may be in the middle of an update
                print(
                    f"rollout worker {number} is replaced, as it did not load weights of version {weights.version}: {failure}", flush=True
                )
                self._replace(self._seats[number], RolloutError(failure))
            failures |= of_line
        return failures

    def receive(self, version: int, meeting: Meeting) -> list[Any]:
        """Call each worker to receive a version from a broadcast, in which rank 0 is the sender's."""
        ranks = count(1, self.num_processes)
        return [worker.receive_weights.remote(version, meeting, rank) for worker, rank in zip(self.members, ranks, strict=False)]

    def _failures(self, line: Line, loaded: "ray.ObjectRef[dict[int, str]]", weights: Weights, due_at: float) -> dict[int, str]:
        """Return why which of a collector's workers do not serve the version; if it dies, the one in its place asks them again."""
        while True:
            left_s = max(0.0, due_at - time.monotonic())
            try:
                return ray.get(loaded, timeout=left_s + ANSWER_S)
            except (GetTimeoutError, RayActorError) as error:
                if time.monotonic() > due_at:
                    raise RolloutError(
                        f"a collector of rollout workers did not answer within rollout.deadline_s={self.config.deadline_s:g} s: {error}"
                    ) from error
                self._reopen(line, error)
                loaded = line.load_weights(weights, left_s)

    def _wait_for_successors(self) -> None:
        for joined in list(self._joining):
            self._admit(joined)

    def weight_checksums(self) -> list[dict[str, str]]:
        """Return each worker's digests of its engine's parameters."""
        self._wait_for_successors()
        return self._gather(
            [seat.worker.actor.weight_checksums.remote() for seat in self._seats], "compute checksums", self.config.deadline_s
        )

    def take_spans(self, limit_s: float) -> list[tuple[Span, ...]]:
        """Return, worker by worker, what each did since it was last asked; nothing of one that does not answer in time."""
        spans: dict[int, tuple[Span, ...]] = {}
        for asked in [line.take_spans(limit_s) for line in self._lines]:
            with suppress(RayError):  # the next poll replaces a collector that died
                spans |= ray.get(asked, timeout=2 * limit_s)
        return [spans.get(seat.number, ()) for seat in self._seats]

    def process_ids(self) -> list[int]:
        """Return each worker's process id."""
        return self._gather([seat.worker.actor.ready.remote() for seat in self._seats], "answer", self.config.deadline_s)

    def _gather(self, refs: list[ray.ObjectRef], what: str, limit_s: float) -> list:
        try:
            return ray.get(refs, timeout=limit_s)
        except GetTimeoutError as error:
            raise RolloutError(
                f"rollout workers did not {what} within rollout.deadline_s={self.config.deadline_s:g} s; asked for "
                f"{self.config.num_workers} x (CPU {self.config.cpus_per_worker}, GPU {self.config.gpus_per_worker:g}), "
                f"the cluster has {_amounts(ray.cluster_resources())}, free are {_amounts(ray.available_resources())}"
            ) from error
        except RayError as error:
            raise RolloutError(f"a rollout worker could not {what}: {error}") from error

    def _launch(self) -> Worker:
        """Return a new worker, its engine starting once it has its place."""
        return launched(self.config, self.model, self.model_path)

    def close(self) -> None:
        """End every worker and its engine."""
        closing = [seat.worker.actor.close.remote() for seat in self._seats]
        ray.wait(closing, num_returns=len(closing), timeout=10)
        for seat in self._seats:
            seat.worker.end()
        for line in self._lines:
            ray.kill(line.collector)
        self._seats, self._lines = [], []


def _place(one: Ended) -> tuple[str, int]:
    return one.problem_id, one.index


def _amounts(resources: dict[str, float]) -> str:
    return ", ".join(f"{name} {resources.get(name, 0):g}" for name in ("CPU", "GPU"))
