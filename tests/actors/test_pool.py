"""The rollout pool with workers that have no engine: its events, who is handed which problem, and what dies without a loss."""

import asyncio
import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence

import psutil
import pytest
import ray

from actors.collector import CallEvent, CallMessage, Collector
from actors.events import CompletionsEnded, GroupFinished, PoolEvent
from actors.pool import RolloutPool
from actors.worker import Ended
from learner.broadcast import BroadcastTransport, BroadcastVersion
from ovt_ray.core.config.run import RolloutConfig
from ovt_ray.core.errors import RolloutError
from ovt_ray.core.types import AnswerKind, Problem, RolloutGroup, Sampling
from ovt_ray.core.weights.meeting import Meeting
from ovt_ray.core.weights.transport import StoredVersion
from ovt_ray.core.weights.version import Weights, WeightTensor
from tests.actors.scripted_workers import ScriptedLauncher
from workloads.simulated import HostedLauncher, Speed

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def pair(ray_session: None) -> Iterator[RolloutPool]:
    """Two workers of four slots each."""
    pool = RolloutPool(RolloutConfig(num_workers=2, max_num_seqs=4, deadline_s=60), ScriptedLauncher())
    pool.wait_until_ready()
    yield pool
    pool.close()


def problem(name: str, lengths: str = "1 1 1 1") -> Problem:
    return Problem(id=name, question=lengths, images=(), answer="1", kind=AnswerKind.NUMBER)


def sampling(num_completions: int = 4, max_tokens: int = 10_000) -> Sampling:
    return Sampling(num_completions=num_completions, temperature=1.0, max_tokens=max_tokens, seed=0)


def drain(pool: RolloutPool) -> list[RolloutGroup]:
    """Return the groups of everything that was submitted."""
    groups = []
    while not pool.is_idle:
        groups += finished(pool.poll())
    return groups


def finished(events: Sequence[PoolEvent]) -> list[RolloutGroup]:
    return [event.group for event in events if isinstance(event, GroupFinished)]


def test_a_worker_gets_the_next_problem_while_the_longest_completion_of_the_last_is_not_done(pair: RolloutPool) -> None:
    """A problem whose straggler takes three seconds holds one slot, not four."""
    slow = [problem(f"slow {number}", "1 1 1 300") for number in range(2)]
    pair.submit([*slow, *(problem(f"quick {number}") for number in range(20))], sampling())
    groups = drain(pair)
    assert [group.problem.id.split()[0] for group in groups] == ["quick"] * 20 + ["slow"] * 2


def test_no_worker_has_more_than_a_quarter_beyond_its_slots_and_one_problem(pair: RolloutPool) -> None:
    pair.submit([problem(f"{number}", "20 20 20 20") for number in range(14)], sampling())
    most = 0
    while not pair.is_idle:
        most = max(most, *(slot.tokens_in_flight for slot in pair.crew.slots.values()))
        pair.poll()
    assert most == 2 * 4 * sampling().max_tokens, "four are under way, and a problem more as there is room for one completion"
    assert [slot.tokens_in_flight for slot in pair.crew.slots.values()] == [0, 0]


def test_a_problem_that_passes_the_deadline_is_named_with_what_has_ended_of_it(pair: RolloutPool) -> None:
    before, pair.deadlines.limit_s = pair.deadlines.limit_s, 0.5
    try:
        with pytest.raises(RolloutError, match=r"problem late: only 3 of its completions ended within rollout.deadline_s=0.5 s"):
            list(pair.generate([problem("late", "1 1 1 5000")], sampling()))
    finally:
        pair.deadlines.limit_s = before
    assert [group.problem.id for group in pair.generate([problem("next")], sampling())] == ["next"], "what was given up is forgotten"


def test_a_driver_that_was_silent_longer_than_the_deadline_may_go_on(pair: RolloutPool) -> None:
    before, pair.deadlines.limit_s = pair.deadlines.limit_s, 1.5
    try:
        time.sleep(1.7)
        assert [group.problem.id for group in pair.generate([problem("after")], sampling())] == ["after"]
    finally:
        pair.deadlines.limit_s = before


def test_what_is_awaited_goes_before_what_waits(pair: RolloutPool) -> None:
    pair.submit([problem(f"{number}", "20 20 20 20") for number in range(14)], sampling())
    pair.submit([problem("awaited", "20 20 20 20")], sampling(), are_awaited=True)
    groups = [group.problem.id for group in drain(pair)]
    assert groups.index("awaited") < 8, "four were under way"


def test_a_killed_collector_is_replaced_and_what_was_in_work_is_answered_once(pair: RolloutPool) -> None:
    [collector] = [process for process in psutil.process_iter() if is_collector(process)]
    killer = threading.Timer(0.3, collector.kill)
    killer.start()
    groups = list(pair.generate([problem(f"{number}", "10 20 30 40") for number in range(12)], sampling()))
    killer.join()
    assert sorted(int(group.problem.id) for group in groups) == list(range(12))
    assert {tuple(len(completion.token_ids) for completion in group.completions) for group in groups} == {(10, 20, 30, 40)}


def test_a_collector_killed_in_the_middle_of_a_load_is_replaced_and_all_serve_the_version(pair: RolloutPool) -> None:
    [collector] = [process for process in psutil.process_iter() if is_collector(process)]
    pair.submit([problem(f"{number}", "10 20 30 200") for number in range(6)], sampling())
    killer = threading.Timer(0.5, collector.kill)
    killer.start()
    pair.load_weights(StoredVersion(Weights(version=9, buckets=(tensors_after.remote(1.5),), checksums={})))
    assert pair.crew.weight_checksums() == [{"version": "9"}] * 2
    killer.join()
    groups = drain(pair)
    assert sorted(int(group.problem.id) for group in groups) == list(range(6))


def test_only_a_worker_that_is_not_done_with_a_load_at_the_deadline_is_replaced(pair: RolloutPool) -> None:
    stuck, other = map(psutil.Process, pair.crew.process_ids())
    before, pair.deadlines.limit_s = pair.deadlines.limit_s, 5
    stuck.suspend()
    try:
        pair.load_weights(StoredVersion(Weights(version=10, buckets=(), checksums={})))
    finally:
        pair.deadlines.limit_s = before
    assert pair.crew.weight_checksums() == [{"version": "10"}] * 2
    assert stuck.pid not in pair.crew.process_ids() and other.pid in pair.crew.process_ids()


def test_spans_of_workers_are_reported_once_worker_by_worker(pair: RolloutPool) -> None:
    pair.take_spans(5)
    list(pair.generate([problem("a", "5 5 5 5")], sampling()))
    assert [[span.name for span in spans] for spans in pair.take_spans(5)] == [["generate"], []]
    assert pair.take_spans(5) == [(), ()]


def test_a_worker_that_is_added_serves_the_current_weights_before_it_has_work(ray_session: None) -> None:
    pool = RolloutPool(RolloutConfig(num_workers=1, max_num_seqs=4, deadline_s=60), ScriptedLauncher())
    pool.load_weights(StoredVersion(Weights(version=5, buckets=(tensors_after.remote(0.5),), checksums={})))
    pool.crew.add(1)
    groups = list(pool.generate([problem(f"{number}", "20 20 20 20") for number in range(12)], sampling()))
    assert {completion.oldest_version for group in groups for completion in group.completions} == {5} and len(groups) == 12
    assert pool.crew.weight_checksums() == [{"version": "5"}] * 2
    assert all(len(spans) > 0 for spans in pool.take_spans(5)), "both had work"
    pool.close()


@ray.remote(num_cpus=0)
def tensors_after(seconds: float) -> list[WeightTensor]:
    """Return no tensors, late."""
    time.sleep(seconds)
    return []


def is_collector(process: psutil.Process) -> bool:
    try:
        ours = psutil.Process().children(recursive=True)
        return process in ours and "Collector" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def test_a_pool_that_finds_no_room_says_what_it_asked_for_and_what_there_is(pair: RolloutPool) -> None:
    pool = RolloutPool(RolloutConfig(num_workers=9, deadline_s=1), ScriptedLauncher())
    there = f"the cluster has CPU 4, GPU {ray.cluster_resources()['GPU']:g}"
    with pytest.raises(RolloutError, match=rf"did not start within .* asked for 9 x \(CPU 1, GPU 0\), {there}"):
        pool.wait_until_ready()
    for slot in pool.crew.slots.values():
        slot.worker.end()
    assert list(pair.generate([problem("still there")], sampling()))


def test_half_of_hundreds_of_workers_die_and_are_replaced_at_the_current_weights_with_no_loss(
    ray_session: None,
) -> None:
    """Two processes have 150 workers each; one of them is killed."""
    launcher = HostedLauncher(Speed(num_slots=4, mean_tokens=50, token_s=0.01), num_hosts=2)
    pool = RolloutPool(RolloutConfig(num_workers=300, max_num_seqs=4), launcher)
    pool.wait_until_ready()
    pool.load_weights(StoredVersion(Weights(version=7, buckets=(), checksums={})))
    victim = ray.get(launcher.hosts[0].call.remote(0, "ready"))
    received: Counter[tuple[str, int]] = Counter()
    groups: list[RolloutGroup] = []

    def poll() -> None:
        for event in pool.poll():
            match event:
                case CompletionsEnded():
                    received.update((event.problem.id, one.index) for one in event.ended)
                case GroupFinished():
                    assert all(received[event.group.problem.id, index] for index in range(2)), "completions are reported before their group"
                    groups.append(event.group)

    requests = pool.submit([problem(f"{number}") for number in range(900)], sampling(2, 200))
    assert len(set(requests)) == 900
    while len(groups) < 100:
        poll()
    assert sum(len(slot.calls) for slot in pool.crew.slots.values()) > 200
    launcher.hosts[0] = launcher.new_host()
    os.kill(victim, signal.SIGKILL)
    while not pool.is_idle:
        poll()
    assert Counter(group.problem.id for group in groups) == {f"{number}": 1 for number in range(900)}
    assert 1800 < sum(received.values()) < 1800 + 150 * 7, "completions of unfinished groups that the dead had ended are reported twice"
    pool.load_weights(StoredVersion(Weights(version=8, buckets=(), checksums={})))
    assert pool.crew.weight_checksums() == [{"version": "8"}] * 300
    pool.close()
    launcher.close()


class ScriptedSender:
    """A learner that sends nothing and fails as the test says."""

    num_changes = 0
    failure = ""
    is_stored = False

    def __init__(self) -> None:
        self.groups_called: list[int] = []

    def check_open(self) -> None: ...

    def call_group(self, num_members: int, deadline_s: float) -> Meeting:
        self.groups_called.append(num_members)
        return Meeting(host="", port=len(self.groups_called), num_members=num_members, deadline_s=deadline_s)

    def send(self, calls: Sequence[ray.ObjectRef], *, is_checked: bool) -> str:
        return self.failure

    def stored(self, version: int, num_changes: int) -> Weights | None:
        return Weights(version=version, buckets=(), checksums={}) if self.is_stored else None


def test_requests_of_the_last_workers_wait_for_the_next_weights_where_theirs_are_gone(
    pair: RolloutPool,
) -> None:
    sender = ScriptedSender()
    transport = BroadcastTransport(sender)

    def broadcast(version: int) -> BroadcastVersion:
        return transport.publish(version, is_checked=False)

    for version in (3, 4):
        pair.load_weights(broadcast(version))
    assert sender.groups_called == [1 + 2], "two versions went to one group"
    pair.submit([problem("one", "100 1 1 1"), problem("other", "100 1 1 1")], sampling())
    for process in pair.crew.process_ids():
        os.kill(process, signal.SIGKILL)
    until = time.monotonic() + 30
    events: list[PoolEvent] = []
    while time.monotonic() < until and not all(slot.is_behind and not slot.is_joining for slot in pair.crew.slots.values()):
        events += pair.poll(0.1)
    events += pair.poll(1.0)
    assert not finished(events) and not pair.is_idle, "the successors are ready, and have no weights"
    pair.load_weights(broadcast(5))
    groups = drain(pair)
    assert {completion.oldest_version for group in groups for completion in group.completions} == {5} and len(groups) == 2
    assert sender.groups_called == [3, 3]


def test_versions_that_no_broadcast_brings_are_pulled_and_the_second_in_a_row_ends_the_run(pair: RolloutPool) -> None:
    sender = ScriptedSender()
    transport = BroadcastTransport(sender)
    sender.is_stored = True
    for version, sender.failure in ((3, "no way there"), (4, ""), (5, "no way there")):
        pair.load_weights(transport.publish(version, is_checked=False))
        assert pair.crew.weight_checksums() == [{"version": str(version)}] * 2
    with pytest.raises(RolloutError, match=r"could not be broadcast.*no way there.*learner.weight_transport=object_store"):
        pair.load_weights(transport.publish(6, is_checked=False))


class Feed:
    """A worker's handle whose stream is fed by the test."""

    def __init__(self) -> None:
        self.parts: asyncio.Queue[Sequence[Ended] | None] = asyncio.Queue()

    @property
    def generate(self) -> "Feed":
        return self

    async def remote(self, problems: Sequence[Problem], sampling: Sampling) -> AsyncIterator[Awaitable[Sequence[Ended]]]:
        while (part := await self.parts.get()) is not None:
            yield asyncio.sleep(0, part)


def test_events_are_reported_together_and_at_once_where_no_more_can_come() -> None:
    async def reported() -> list[list[CallEvent]]:
        collector, feeds = Collector(), [Feed(), Feed()]
        await collector.assign(dict(enumerate(feeds)))
        messages = [CallMessage(call=10 + slot, slot=slot, problems=(problem("a"),), sampling=sampling()) for slot in (0, 1)]
        await collector.call(messages)
        parts: tuple[Sequence[Ended] | None, ...] = ([], None)
        for part in parts:
            for feed in feeds:
                feed.parts.put_nowait(part)
        return [await collector.events([], gather_s=math.inf)]

    assert [[event.call for event in batch] for batch in asyncio.run(reported())] == [[10, 11]]
