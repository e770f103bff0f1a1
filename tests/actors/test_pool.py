"""The rollout pool with workers that have no engine: who hears of what, who is handed what, and what is lost when something dies."""

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

from actors.collector import Collector, News, Order
from actors.pool import RolloutPool
from actors.worker import Ended
from learner.broadcast import BroadcastTransport, BroadcastVersion
from ovt_ray.core.config.run import ModelConfig, RolloutConfig
from ovt_ray.core.errors import RolloutError
from ovt_ray.core.types import AnswerKind, Problem, RolloutGroup, Sampling
from ovt_ray.core.weights.meeting import Meeting
from ovt_ray.core.weights.transport import StoredVersion
from ovt_ray.core.weights.version import Weights, WeightTensor
from tests.actors.scripted_workers import ScriptedPool
from workloads.simulated import HostedPool, Speed

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def pair(ray_session: None) -> Iterator[ScriptedPool]:
    """Two workers of four slots each."""
    pool = ScriptedPool(RolloutConfig(num_workers=2, max_num_seqs=4, deadline_s=60), ModelConfig(path=""), "")
    pool.wait_until_ready()
    yield pool
    pool.close()


def problem(name: str, lengths: str = "1 1 1 1") -> Problem:
    return Problem(id=name, question=lengths, images=(), answer="1", kind=AnswerKind.NUMBER)


def sampling(num_completions: int = 4, max_tokens: int = 10_000) -> Sampling:
    return Sampling(num_completions=num_completions, temperature=1.0, max_tokens=max_tokens, seed=0)


def drain(pool: RolloutPool) -> None:
    while not pool.is_idle:
        pool.poll()


def test_a_worker_is_handed_the_next_problem_while_the_last_one_s_longest_completion_runs(pair: ScriptedPool) -> None:
    """A problem whose straggler takes three seconds holds one slot, not four."""
    groups: list[RolloutGroup] = []
    slow = [problem(f"slow {number}", "1 1 1 300") for number in range(2)]
    pair.submit([*slow, *(problem(f"quick {number}") for number in range(20))], sampling(), groups.append)
    drain(pair)
    assert [group.problem.id.split()[0] for group in groups] == ["quick"] * 20 + ["slow"] * 2


def test_no_worker_has_more_than_a_quarter_beyond_its_slots_and_one_problem(pair: ScriptedPool) -> None:
    pair.submit([problem(f"{number}", "20 20 20 20") for number in range(14)], sampling(), lambda group: None)
    most = 0
    while not pair.is_idle:
        most = max(most, *(seat.tokens_in_flight for seat in pair._seats))
        pair.poll()
    assert most == 2 * 4 * sampling().max_tokens, "four are under way, and a problem more as there is room for one completion"
    assert [seat.tokens_in_flight for seat in pair._seats] == [0, 0]


def test_a_problem_that_passes_the_deadline_is_named_with_what_has_ended_of_it(pair: ScriptedPool) -> None:
    before, pair.config = pair.config, pair.config.model_copy(update={"deadline_s": 0.5})
    try:
        with pytest.raises(RolloutError, match=r"problem late: only 3 of its completions ended within rollout.deadline_s=0.5 s"):
            list(pair.generate([problem("late", "1 1 1 5000")], sampling()))
    finally:
        pair.config = before
    assert [group.problem.id for group in pair.generate([problem("next")], sampling())] == ["next"], "what was given up is forgotten"


def test_a_driver_that_was_silent_longer_than_the_deadline_may_go_on(pair: ScriptedPool) -> None:
    before, pair.config = pair.config, pair.config.model_copy(update={"deadline_s": 1.5})
    try:
        time.sleep(1.7)
        assert [group.problem.id for group in pair.generate([problem("after")], sampling())] == ["after"]
    finally:
        pair.config = before


def test_what_is_awaited_goes_before_what_waits(pair: ScriptedPool) -> None:
    groups: list[str] = []
    pair.submit([problem(f"{number}", "20 20 20 20") for number in range(14)], sampling(), lambda group: groups.append(group.problem.id))
    pair.submit([problem("awaited", "20 20 20 20")], sampling(), lambda group: groups.append(group.problem.id), are_awaited=True)
    drain(pair)
    assert groups.index("awaited") < 8, "four were under way"


def test_a_killed_collector_is_replaced_and_what_was_in_work_is_answered_once(pair: ScriptedPool) -> None:
    [collector] = [process for process in psutil.process_iter() if is_collector(process)]
    killer = threading.Timer(0.3, collector.kill)
    killer.start()
    groups = list(pair.generate([problem(f"{number}", "10 20 30 40") for number in range(12)], sampling()))
    killer.join()
    assert sorted(int(group.problem.id) for group in groups) == list(range(12))
    assert {tuple(len(completion.token_ids) for completion in group.completions) for group in groups} == {(10, 20, 30, 40)}


def test_a_collector_killed_in_the_middle_of_a_load_is_replaced_and_all_serve_the_version(pair: ScriptedPool) -> None:
    [collector] = [process for process in psutil.process_iter() if is_collector(process)]
    groups: list[RolloutGroup] = []
    pair.submit([problem(f"{number}", "10 20 30 200") for number in range(6)], sampling(), groups.append)
    killer = threading.Timer(0.5, collector.kill)
    killer.start()
    pair.load_weights(StoredVersion(Weights(version=9, buckets=(tensors_after.remote(1.5),), checksums={})))
    assert pair.weight_checksums() == [{"version": "9"}] * 2
    killer.join()
    drain(pair)
    assert sorted(int(group.problem.id) for group in groups) == list(range(6))


def test_only_a_worker_that_is_not_done_with_a_load_at_the_deadline_is_replaced(pair: ScriptedPool) -> None:
    stuck, other = map(psutil.Process, pair.process_ids())
    before, pair.config = pair.config, pair.config.model_copy(update={"deadline_s": 5})
    stuck.suspend()
    try:
        pair.load_weights(StoredVersion(Weights(version=10, buckets=(), checksums={})))
    finally:
        pair.config = before
    assert pair.weight_checksums() == [{"version": "10"}] * 2
    assert stuck.pid not in pair.process_ids() and other.pid in pair.process_ids()


def test_what_workers_did_is_told_once_worker_by_worker(pair: ScriptedPool) -> None:
    pair.take_spans(5)
    list(pair.generate([problem("a", "5 5 5 5")], sampling()))
    assert [[span.name for span in spans] for spans in pair.take_spans(5)] == [["generate"], []]
    assert pair.take_spans(5) == [(), ()]


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


def test_a_pool_that_finds_no_room_says_what_it_asked_for_and_what_there_is(pair: ScriptedPool) -> None:
    pool = ScriptedPool(RolloutConfig(num_workers=9, deadline_s=1), ModelConfig(path=""), "")
    with pytest.raises(RolloutError, match=r"did not start within .* asked for 9 x \(CPU 1, GPU 0\), the cluster has CPU 4, GPU 0"):
        pool.wait_until_ready()
    for seat in pool._seats:
        seat.worker.end()
    assert list(pair.generate([problem("still there")], sampling()))


def test_deaths_amid_hundreds_of_open_streams_lose_nothing_and_report_nothing_twice(
    ray_session: None,
) -> None:
    """Two processes have 150 workers each; one of them is killed."""
    pool = HostedPool(RolloutConfig(num_workers=300, max_num_seqs=4), Speed(num_slots=4, mean_tokens=50, token_s=0.01), num_hosts=2)
    pool.wait_until_ready()
    pool.load_weights(StoredVersion(Weights(version=7, buckets=(), checksums={})))
    victim = ray.get(pool.hosts[0].call.remote(0, "ready"))
    heard: Counter[tuple[str, int]] = Counter()
    groups: list[RolloutGroup] = []

    def on_group(group: RolloutGroup) -> None:
        assert all(heard[group.problem.id, index] for index in range(2)), "each completion is heard of before its group"
        groups.append(group)

    pool.submit(
        [problem(f"{number}") for number in range(900)],
        sampling(2, 200),
        on_group,
        lambda of, ended: heard.update((of.id, one.index) for one in ended),
    )
    while len(groups) < 100:
        pool.poll()
    assert len(pool._calls) > 200
    pool.hosts[0] = pool.new_host()
    os.kill(victim, signal.SIGKILL)
    drain(pool)
    assert Counter(group.problem.id for group in groups) == {f"{number}": 1 for number in range(900)}
    assert 1800 < sum(heard.values()) < 1800 + 150 * 7, "what the dead had ended of unfinished groups was heard of twice"
    pool.load_weights(StoredVersion(Weights(version=8, buckets=(), checksums={})))
    assert pool.weight_checksums() == [{"version": "8"}] * 300
    pool.close()


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


def test_work_of_the_last_workers_waits_for_the_next_weights_where_theirs_cannot_be_sent_again(
    pair: ScriptedPool,
) -> None:
    sender = ScriptedSender()
    transport = BroadcastTransport(sender)

    def broadcast(version: int) -> BroadcastVersion:
        return transport.publish(version, is_checked=False)

    for version in (3, 4):
        pair.load_weights(broadcast(version))
    assert sender.groups_called == [1 + 2], "two versions went to one group"
    groups: list[RolloutGroup] = []
    pair.submit([problem("one", "100 1 1 1"), problem("other", "100 1 1 1")], sampling(), groups.append)
    for process in pair.process_ids():
        os.kill(process, signal.SIGKILL)
    until = time.monotonic() + 30
    while time.monotonic() < until and not (all(seat.is_behind for seat in pair._seats) and not pair._joining):
        pair.poll(0.1)
    pair.poll(1.0)
    assert not groups and not pair.is_idle, "the successors are ready, and have no weights"
    pair.load_weights(broadcast(5))
    drain(pair)
    assert {completion.oldest_version for group in groups for completion in group.completions} == {5} and len(groups) == 2
    assert sender.groups_called == [3, 3]


def test_a_failed_broadcast_is_pulled_and_the_second_in_a_row_ends_the_run_with_a_way_out(pair: ScriptedPool) -> None:
    sender = ScriptedSender()
    transport = BroadcastTransport(sender)
    sender.is_stored = True
    for version, sender.failure in ((3, "no way there"), (4, ""), (5, "no way there")):
        pair.load_weights(transport.publish(version, is_checked=False))
        assert pair.weight_checksums() == [{"version": str(version)}] * 2
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


def test_news_are_told_together_and_at_once_where_no_more_can_come() -> None:
    async def told() -> list[list[News]]:
        collector, feeds = Collector(gather_s=math.inf), [Feed(), Feed()]
        await collector.seat(dict(enumerate(feeds)))
        orders = [Order(call=10 + seat, seat=seat, problems=(problem("a"),), sampling=sampling()) for seat in (0, 1)]
        await collector.ask(orders)
        for part in ([], None):
            for feed in feeds:
                feed.parts.put_nowait(part)
        return [await collector.news([])]

    assert [[news.call for news in batch] for batch in asyncio.run(told())] == [[10, 11]]
