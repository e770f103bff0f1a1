"""The queue of requests: which problems wait for a worker, which worker has which, and what has come back."""

import heapq
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, groupby

from actors.channel import Channel
from actors.collector import CallEvent, CallMessage
from actors.events import CompletionsEnded, GroupFinished, PoolEvent
from actors.slots import WorkerSlot
from actors.worker import Ended
from ovt_ray.core.errors import RolloutError
from ovt_ray.core.types import Problem, RolloutGroup, Sampling

MAX_LOSSES = 3
"""Workers that may die while they have a problem before the pool gives up."""
AHEAD = 0.25
"""Share of an engine's sequences that it is handed beyond them. A sequence that ends is then followed at once, and not only after the pool
has received its completion."""


@dataclass(eq=False, kw_only=True)
class Request:
    """A problem that waits for a worker or is in work, with its completions so far."""

    number: int
    problem: Problem
    sampling: Sampling
    num_lost: int = 0
    """Workers that died while they had it."""
    due_at: float = math.inf
    """Deadline on the clock of `time.monotonic`, once a worker has it."""
    ended: list[Ended] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """Tokens that all completions may take."""
        return self.sampling.num_completions * self.sampling.max_tokens

    @property
    def is_finished(self) -> bool:
        """Whether all completions have ended."""
        return len(self.ended) == self.sampling.num_completions

    def group(self) -> RolloutGroup:
        """Return the group of all completions, in the order of their indices."""
        # By index: completions end in any order, while advantages and samples follow the group's.
        completions = tuple(one.completion for one in sorted(self.ended, key=lambda one: one.index))
        return RolloutGroup(problem=self.problem, prompt_ids=self.ended[0].prompt_ids, completions=completions)


@dataclass(eq=False)
class Call:
    """A call to a worker."""

    slot: WorkerSlot
    requests: dict[str, Request]
    """Unfinished requests, by the id of their problem."""


class RequestQueue:
    """Hands requests to the worker slots that have room, and turns their answers into events.

    A slot's tokens in flight are the most that its unfinished completions may still take.
    """

    def __init__(self, max_num_seqs: int) -> None:
        """Each engine decodes `max_num_seqs` sequences at a time."""
        self._max_num_seqs = max_num_seqs
        self._pending: deque[Request] = deque()
        """Requests that no worker has."""
        self._calls: dict[int, Call] = {}
        """Unfinished calls, by number."""
        self._call_numbers = count()
        self._request_numbers = count()
        self._may_have_room: set[WorkerSlot] = set()
        """All slots except those that had no room for the last request and have ended nothing since."""

    @property
    def is_idle(self) -> bool:
        """Whether no request waits or is in work."""
        return not self._pending and not self._calls

    def open(self, slot: WorkerSlot) -> None:
        """Let a slot have requests, as soon as it takes work."""
        self._may_have_room.add(slot)

    def add(self, problems: Sequence[Problem], sampling: Sampling, *, are_awaited: bool) -> list[int]:
        """Take in problems, before all others if they are awaited, and return their numbers."""
        assert len({problem.id for problem in problems}) == len(problems), "two problems of one call have the same id"
        requests = [Request(number=next(self._request_numbers), problem=problem, sampling=sampling) for problem in problems]
        if are_awaited:
            # Reversed, because `extendleft` turns them round: they keep the order of their submission.
            self._pending.extendleft(reversed(requests))
        else:
            self._pending.extend(requests)
        return [request.number for request in requests]

    def dispatch(self, due_at: float) -> None:
        """Call workers with requests, each the worker with the fewest tokens in flight, while any has room."""
        if not self._pending:
            return
        candidates = {slot for slot in self._may_have_room if slot.takes_work}
        loads = [(slot.tokens_in_flight, slot.number, slot) for slot in candidates]  # no two numbers are alike
        heapq.heapify(loads)
        batches: dict[tuple[WorkerSlot, Sampling], list[Request]] = {}
        while self._pending and loads:
            request = self._pending[0]
            tokens_in_flight, number, slot = loads[0]
            # A request that fits does not overtake the first one: the driver waits for them in this order.
            if tokens_in_flight >= (1 + AHEAD) * self._max_num_seqs * request.sampling.max_tokens:
                # The least loaded has no room, so none has: the next dispatch looks only at slots that have ended something by then.
                self._may_have_room -= candidates
                break
            self._pending.popleft()
            # The clock starts here and not at `submit`: a worker is not to blame for the wait in the queue.
            request.due_at = due_at
            batches.setdefault((slot, request.sampling), []).append(request)
            heapq.heapreplace(loads, (tokens_in_flight + request.num_tokens, number, slot))
        self._call([(slot, sampling, requests) for (slot, sampling), requests in batches.items()])

    def receive(self, event: CallEvent) -> list[PoolEvent]:
        """Take in the completions of a call, and return what they mean."""
        call = self._calls[event.call]
        self._may_have_room.add(call.slot)
        events: list[PoolEvent] = []
        # Sorted first, as `groupby` joins neighbours only: the reward gets a problem's completions in one call.
        for problem_id, parts in groupby(sorted(event.ended, key=_place), key=lambda one: one.problem_id):
            request, ended = call.requests[problem_id], tuple(parts)
            request.ended += ended
            # Per completion, not per group: short answers make room before the longest of their group ends.
            call.slot.tokens_in_flight -= len(ended) * request.sampling.max_tokens
            events.append(CompletionsEnded(request=request.number, problem=request.problem, ended=ended))
            # After its completions' event: the reward must have all of them before the group counts as generated.
            if request.is_finished:
                del call.requests[problem_id]
                events.append(GroupFinished(request=request.number, group=request.group()))
        if not call.requests:
            del self._calls[event.call]
            call.slot.calls.remove(event.call)
        return events

    def slot_of(self, event: CallEvent) -> WorkerSlot | None:
        """Return the slot of the event's worker; None if the worker died since, and others have its requests."""
        call = self._calls.get(event.call)
        return call.slot if call else None

    def take_back(self, slot: WorkerSlot, error: Exception) -> None:
        """Put a slot's unfinished requests before all that wait. Raises RolloutError if workers keep dying while they have one."""
        # Oldest calls first: the driver has waited longest for these.
        lost = [request for number in sorted(slot.calls) for request in self._calls.pop(number).requests.values()]
        self._clear(slot)
        for request in lost:
            request.ended.clear()  # its completions are generated again, all of them, so that one worker draws the whole group
            request.num_lost += 1
            # A problem that kills its engine would kill each successor as well.
            if request.num_lost > MAX_LOSSES:
                raise RolloutError(
                    f"problem {request.problem.id}: {request.num_lost} rollout workers died while they had it, the last one: {error}"
                ) from error
        self._pending.extendleft(reversed(lost))

    def abandon(self) -> int:
        """Drop all requests, and return the number from which calls are new."""
        for slot in {call.slot for call in self._calls.values()}:
            self._clear(slot)
        self._calls.clear()
        self._pending.clear()
        return next(self._call_numbers)

    def postpone(self, seconds: float) -> None:
        """Give the requests that workers have so much longer."""
        for _, request in self.in_work():
            request.due_at += seconds

    def in_work(self) -> Iterator[tuple[Channel, Request]]:
        """Yield each request that a worker has, with the channel of its worker."""
        for call in self._calls.values():
            for request in call.requests.values():
                yield call.slot.channel, request

    def _clear(self, slot: WorkerSlot) -> None:
        self._may_have_room.add(slot)
        slot.calls.clear()
        slot.tokens_in_flight = 0

    def _call(self, batches: Sequence[tuple[WorkerSlot, Sampling, Sequence[Request]]]) -> None:
        """Call workers with requests, in one message to each collector."""
        messages: dict[Channel, list[CallMessage]] = {}
        for slot, sampling, requests in batches:
            # A number per call: an event of a lost call must not match a later call for the same problem.
            number = next(self._call_numbers)
            self._calls[number] = Call(slot, {request.problem.id: request for request in requests})
            slot.calls.add(number)
            slot.tokens_in_flight += sum(request.num_tokens for request in requests)
            problems = tuple(request.problem for request in requests)
            messages.setdefault(slot.channel, []).append(CallMessage(call=number, slot=slot.number, problems=problems, sampling=sampling))
        for channel, its_messages in messages.items():
            channel.call(its_messages)


def _place(one: Ended) -> tuple[str, int]:
    return one.problem_id, one.index
