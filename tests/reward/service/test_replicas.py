"""Rewards in Ray actors, on real Ray: resources and replicas of their own, deadlines, and what happens when one dies."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from ovt_ray.core.config.run import RewardConfig
from ovt_ray.core.errors import RewardError
from ovt_ray.core.types import AnswerKind, Failure, Outcome, Problem
from reward.pool import RewardPool
from reward.protocol import Answer
from tests.reward.obedient_actors import Batch

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("ray_session")]
FILE = f"{Path(__file__).parents[1]}/obedient_actors.py"
PROBLEM = Problem(id="p1", question="?", images=(), answer="6", kind=AnswerKind.NUMBER)


def _pool(*parts: dict[str, object], **values: float) -> RewardPool:
    return RewardPool(RewardConfig.model_validate({"parts": parts, **values}))


def _eventually(condition: Callable[[], bool], limit_s: float = 10) -> bool:
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_an_actor_class_scores_with_options_and_lengths_on_several_replicas() -> None:
    pool = _pool({"name": f"{FILE}:Obey", "options": {"bonus": 0.5}, "replicas": 2})
    answers = [Answer(index=index, text="a", num_tokens=index) for index in range(6)]
    scores = pool.collect(pool.submit(PROBLEM, answers))
    pool.close()
    assert [score.value for score in scores] == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert len({score.extracted for score in scores}) == 2


def test_parts_in_processes_and_in_actors_are_added_by_weight() -> None:
    pool = _pool({"name": "reward.accuracy:score_accuracy"}, {"name": f"{FILE}:Obey", "weight": -0.1})
    right, unreadable = pool.collect(pool.submit_texts(PROBLEM, ["<think> a </think> <answer> 6 </answer>", "6"]))
    pool.close()
    assert (right.outcome, right.extracted, right.value) == (Outcome.CORRECT, "6", pytest.approx(1 - 0.6))
    assert right.parts == {"reward.accuracy:score_accuracy": 1.0, f"{FILE}:Obey": 6.0}
    assert (unreadable.outcome, unreadable.value) == (Outcome.UNPARSEABLE, pytest.approx(-0.1))


def test_an_async_actor_takes_as_many_calls_at_once_as_it_may_and_a_late_one_costs_no_other() -> None:
    pool = _pool({"name": f"{FILE}:Patient"}, deadline_s=2)
    began = time.monotonic()
    scores = pool.collect(pool.submit_texts(PROBLEM, ["a"] * 7 + ["hang"]))
    assert time.monotonic() - began < 2.8
    assert [score.value for score in scores[:7]] == [1.0] * 7
    assert (scores[7].failure, scores[7].reason) == (
        Failure.DEADLINE,
        f"reward {FILE}:Patient on problem p1, completion 7: its actor took longer than 2 s",
    )
    pool.close()


def test_a_replica_that_hangs_raises_or_dies_costs_its_own_answer_only() -> None:
    pool = _pool({"name": f"{FILE}:Obey"}, deadline_s=3)
    scores = pool.collect(pool.submit_texts(PROBLEM, ["a", "hang", "b c", "raise", "kill", "c d e"]))
    pool.close()
    assert [score.failure for score in scores] == [None, Failure.DEADLINE, None, Failure.ERROR, Failure.CRASH, None]
    assert [scores[position].value for position in (0, 2, 5)] == [1.0, 2.0, 3.0]
    assert f"{FILE}:Obey on problem p1, completion 3: its actor raised KeyError: 'no such part'" in scores[3].reason


def test_a_killed_replica_costs_no_score(tmp_path: Path) -> None:
    pool = _pool({"name": f"{FILE}:Obey"}, deadline_s=60)
    pending = pool.submit_texts(PROBLEM, ["a", f"once {tmp_path}/pid", "b c"])
    assert _eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert [score.value for score in pool.collect(pending)] == [1.0, 2.0, 2.0]
    pool.close()


def test_a_batch_is_scored_at_once_and_apart_if_it_fails() -> None:
    pool = _pool({"name": f"{FILE}:Batch"})
    assert [score.value for score in pool.collect(pool.submit_texts(PROBLEM, ["a", "bb"]))] == [2.1, 2.2]
    first, failed, last = pool.collect(pool.submit_texts(PROBLEM, ["a", "raise", "bb"]))
    pool.close()
    assert (first.value, failed.failure, last.value) == (1.1, Failure.ERROR, 1.2)
    assert f"{FILE}:Batch on problem p1, completion 1: its actor raised KeyError" in failed.reason


def test_an_actor_that_runs_already_is_called_and_left_alive() -> None:
    actor = Batch.options(name="judge", namespace="theirs").remote()
    pool = _pool({"name": "actor:theirs/judge"})
    assert [score.value for score in pool.collect(pool.submit_texts(PROBLEM, ["a", "bb"]))] == [2.1, 2.2]
    pool.close()
    assert ray.get(actor.score_batch.remote(PROBLEM, ["a"])) == [1.1]
    ray.kill(actor)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"name": "actor:nobody"}, "reward 'actor:nobody': no such actor runs"),
        ({"name": f"{FILE}:Obey", "options": {"bonsu": 1}}, "unknown option 'bonsu'; did you mean 'bonus'"),
        ({"name": f"{FILE}:Obey", "options": {"bonus": "much"}}, "option 'bonus': .* got 'much'"),
    ],
)
def test_what_cannot_be_started_is_refused(part: dict[str, object], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        _pool(part)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"name": f"{FILE}:Obey", "replicas": 1}, "replicas=1 are fewer than reward.num_actors=2"),
        ({"name": "actor:nobody"}, "reward.num_actors=2 would share one actor"),
    ],
)
def test_reward_actors_never_share_a_replica(part: dict[str, object], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        _pool(part, num_actors=2)


def test_each_reward_actor_calls_replicas_of_its_own() -> None:
    pool = _pool({"name": f"{FILE}:Obey", "replicas": 2}, num_actors=2)
    refs = [pool.submit_texts(PROBLEM, ["a"] * 4) for _ in range(2)]
    pids = [{score.extracted for score in pool.collect(ref)} for ref in refs]
    pool.close()
    assert [len(one) for one in pids] == [1, 1] and pids[0] != pids[1]
