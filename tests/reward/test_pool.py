"""The reward service on real Ray: whatever is killed, each completion gets exactly one score."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ovt_ray.core.config.run import RewardConfig
from ovt_ray.core.errors import RewardError
from ovt_ray.core.types import AnswerKind, Failure, Outcome, Problem
from reward.pool import RewardPool
from reward.protocol import Answer

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("ray_session")]
OBEY = f"{Path(__file__).parent}/obedient_reward.py:obey"


def _config(*names: str, **values: float) -> RewardConfig:
    return RewardConfig.model_validate({"parts": [{"name": name} for name in names], **values})


PROBLEM = Problem(id="p1", question="?", images=(), answer="6", kind=AnswerKind.NUMBER)


def _eventually(condition: Callable[[], bool], limit_s: float = 10) -> bool:
    """Return whether the condition comes true within the limit."""
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def _is_alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _parent(pid: int) -> int:
    """Return the id of a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _pid_in(path: Path) -> int:
    """Return the process id that a reward writes into a file, once it has."""
    assert _eventually(lambda: path.exists() and path.read_text() != "")
    return int(path.read_text())


def test_a_group_is_scored_in_order_by_the_default_reward() -> None:
    pool = RewardPool(RewardConfig())
    scores = pool.collect(
        pool.submit_texts(PROBLEM, ["<think> a </think> <answer> 6 </answer>", "<think> a </think> <answer> 7 </answer>", "6"])
    )
    pool.close()
    assert [score.outcome for score in scores] == [Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSEABLE]
    assert [score.value for score in scores] == [1.0, 0.0, 0.0]


def test_texts_without_a_group_are_scored_too_also_none() -> None:
    pool = RewardPool(RewardConfig())
    some, none = pool.submit_texts(PROBLEM, ["<think> a </think> <answer> 6 </answer>"]), pool.submit_texts(PROBLEM, [])
    assert [score.value for score in pool.collect(some)] == [1.0]
    assert pool.collect(none) == ()
    pool.close()


def test_groups_are_scored_side_by_side_and_as_they_are_ready() -> None:
    pool = RewardPool(_config(OBEY, num_actors=2))
    slow = pool.submit_texts(PROBLEM, ["sleep 3"])
    fast = pool.submit_texts(PROBLEM, ["a"])
    assert _eventually(lambda: pool.are_ready([fast]), limit_s=2.5) and not pool.are_ready([slow, fast])
    assert pool.collect(fast)[0].extracted == "a"
    assert pool.collect(slow)[0].extracted == "sleep 3"
    pool.close()


def test_a_killed_reward_process_costs_one_score(tmp_path: Path) -> None:
    pool = RewardPool(_config(OBEY, deadline_s=60))
    pending = pool.submit_texts(PROBLEM, ["a", f"once {tmp_path}/pid", "bbb"])
    os.kill(_pid_in(tmp_path / "pid"), signal.SIGKILL)
    before, killed, after = pool.collect(pending)
    pool.close()
    assert (before.value, after.value) == (1.0, 3.0)
    assert killed.outcome is Outcome.UNSCORABLE and killed.reason.endswith("was killed by SIGKILL")


def test_a_killed_actor_costs_no_score_and_leaves_no_process(tmp_path: Path) -> None:
    pool = RewardPool(_config(OBEY, deadline_s=60))
    text = f"once {tmp_path}/pid"
    first, second = pool.submit_texts(PROBLEM, ["a", text, "bbb"]), pool.submit_texts(PROBLEM, ["cc"])
    child = _pid_in(tmp_path / "pid")
    os.kill(_parent(child), signal.SIGKILL)
    assert [score.extracted for score in pool.collect(first)] == ["a", text, "bbb"]
    assert [score.extracted for score in pool.collect(second)] == ["cc"]
    assert not _is_alive(child)
    assert pool.collect(pool.submit_texts(PROBLEM, ["d"]))[0].value == 1.0
    pool.close()


def test_a_group_that_kills_its_actor_each_time_is_unscorable() -> None:
    pool = RewardPool(_config(OBEY))
    scores = pool.collect(pool.submit_texts(PROBLEM, ["a", "orphan"]))
    assert [score.outcome for score in scores] == [Outcome.UNSCORABLE] * 2
    assert "the reward actor died 4 times on problem p1" in scores[0].reason
    assert pool.collect(pool.submit_texts(PROBLEM, ["bb"]))[0].value == 2.0
    pool.close()


def test_a_hang_ends_at_the_deadline_also_through_ray() -> None:
    pool = RewardPool(_config(OBEY, deadline_s=1))
    start = time.monotonic()
    hung, after = pool.collect(pool.submit_texts(PROBLEM, ["hang", "bb"]))
    assert time.monotonic() - start < 1.5
    assert (hung.outcome, after.value) == (Outcome.UNSCORABLE, 2.0)
    pool.close()


def test_a_reward_that_cannot_be_loaded_is_refused_here_with_its_message() -> None:
    with pytest.raises(RewardError, match=r"^reward .* has no 'score_acuracy'; did you mean 'score_accuracy'\?$"):
        RewardPool(_config("reward.accuracy:score_acuracy", num_actors=2))


def test_close_leaves_no_process_even_in_the_middle_of_a_score(tmp_path: Path) -> None:
    pool = RewardPool(_config(OBEY, deadline_s=60))
    pool.submit_texts(PROBLEM, [f"once {tmp_path}/pid"])
    child = _pid_in(tmp_path / "pid")
    actor = _parent(child)
    pool.close()
    pool.close()
    assert _eventually(lambda: not _is_alive(child) and not _is_alive(actor))


def test_single_completions_are_scored_as_they_come_and_named_by_their_index() -> None:
    pool = RewardPool(_config(OBEY))
    refs = [pool.submit(PROBLEM, [Answer(index=index, text=text, num_tokens=3)]) for index, text in enumerate(["a", "raise"])]
    assert pool.collect(refs[0])[0].value == 1.0
    (raised,) = pool.collect(refs[1])
    pool.close()
    assert raised.failure is Failure.ERROR and "on problem p1, completion 1: it raised KeyError" in raised.reason


def test_a_hang_holds_up_no_other_process_of_its_actor() -> None:
    pool = RewardPool(_config(OBEY, num_processes=2, deadline_s=2))
    began = time.monotonic()
    hung = pool.submit_texts(PROBLEM, ["hang"])
    assert [score.value for score in pool.collect(pool.submit_texts(PROBLEM, ["a", "bb"]))] == [1.0, 2.0]
    assert time.monotonic() - began < 1.5
    assert pool.collect(hung)[0].failure is Failure.DEADLINE
    pool.close()


def test_every_completion_has_one_score_when_processes_and_actors_are_killed_in_the_middle(tmp_path: Path) -> None:
    pool = RewardPool(_config(OBEY, num_actors=2, num_processes=2, deadline_s=60))
    groups = [["a", f"once {tmp_path}/pid"], *([f"sleep 0.05 {group}/{index}" for index in range(8)] for group in range(12))]
    pending = [pool.submit_texts(PROBLEM, texts) for texts in groups]
    child = _pid_in(tmp_path / "pid")
    os.kill(_parent(child), signal.SIGKILL)
    scores = [pool.collect(ref) for ref in pending]
    pool.close()
    assert [[score.extracted for score in found] for found in scores] == groups


def test_submit_waits_while_the_queue_is_full() -> None:
    pool = RewardPool(_config(OBEY, queue=2))
    began = time.monotonic()
    refs = [pool.submit_texts(PROBLEM, ["sleep 0.5"]) for _ in range(4)]
    assert 0.8 < time.monotonic() - began < 2.5, "two are in work at a time, so the fourth waits for the second"
    assert [pool.collect(ref)[0].extracted for ref in refs] == ["sleep 0.5"] * 4
    pool.close()


def test_a_reward_that_fails_too_often_stops_the_run_with_its_message() -> None:
    pool = RewardPool(_config(OBEY, max_error_share=0.2))
    assert len(pool.collect(pool.submit_texts(PROBLEM, [*["a"] * 16, *["raise"] * 4]))) == 20, "a fifth may fail"
    with pytest.raises(
        RewardError,
        match=r"failed on 5 of the last 21 .*max_error_share=0.2; the last one: reward .*:obey on problem p1, completion 0: it raised",
    ):
        pool.collect(pool.submit_texts(PROBLEM, ["raise"]))
    pool.close()


def test_texts_are_yielded_as_they_are_scored_and_not_when_all_are_submitted() -> None:
    pool = RewardPool(_config(OBEY, queue=1))
    num_asked = 0

    def answered() -> Iterator[tuple[Problem, list[str]]]:
        nonlocal num_asked
        for text in ("a", "bb", "ccc", "dddd"):
            num_asked += 1
            yield PROBLEM, [text]

    found = [(texts, scores[0].value, num_asked) for _, texts, scores in pool.score_texts(answered())]
    pool.close()
    assert [(texts, value) for texts, value, _ in found] == [(["a"], 1.0), (["bb"], 2.0), (["ccc"], 3.0), (["dddd"], 4.0)]
    assert found[0][2] < 4


def test_a_reward_that_fails_stops_texts_before_all_of_them_are_submitted() -> None:
    pool = RewardPool(_config(OBEY, queue=4, max_error_share=0.1))
    asked: list[str] = []

    def answered() -> Iterator[tuple[Problem, list[str]]]:
        for index in range(100):
            asked.append(f"raise {index}")
            yield PROBLEM, ["raise"]

    with pytest.raises(RewardError, match="failed on 20 of the last 20"):
        list(pool.score_texts(answered()))
    pool.close()
    assert len(asked) < 40


def test_what_is_discarded_is_waited_for_by_nobody_and_the_rest_is_collected() -> None:
    pool = RewardPool(_config(OBEY, queue=2))
    pool.discard(pool.submit_texts(PROBLEM, ["sleep 0.2"]))
    kept = [pool.submit_texts(PROBLEM, [text]) for text in ("a", "bb", "ccc")]
    assert [pool.collect(ref)[0].value for ref in kept] == [1.0, 2.0, 3.0]
    pool.close()
