"""Every kind of reward that runs in a scoring process: state, batches, async, options, several parts, an endpoint."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ovt_ray.core.errors import RewardError
from ovt_ray.core.types import AnswerKind, Failure, Outcome, Problem, Score
from reward.load import load_reward
from reward.protocol import Answer, Part
from reward.service.scoring import ScoringPool
from reward.service.worker import ScoringProcess

pytestmark = pytest.mark.heavy
PROBLEM = Problem(id="p1", question="?", images=(), answer="6", kind=AnswerKind.NUMBER)
FILE = """
import asyncio, os, time

class Counting:
    def __init__(self, start: int, step: int = 1):
        if step == 0:
            raise ValueError("step must not be 0")
        self.value, self.step = start, step

    def __call__(self, problem, text):
        self.value += self.step
        return self.value

class Lengths:
    def score_batch(self, problem, texts, num_tokens):
        if "hang" in texts:
            time.sleep(3600)
        if "exit" in texts:
            os._exit(3)
        if "raise" in texts:
            raise KeyError("in a batch")
        return [10 * len(texts) + number for number in num_tokens]

class Waiting:
    async def __call__(self, problem, text):
        if text == "raise":
            raise KeyError("in a coroutine")
        if text == "block":
            time.sleep(3600)
        await asyncio.sleep(3600 if text == "hang" else 0.4)
        return 0.5

def plain(problem, text):
    if text == "plain-hang":
        time.sleep(3600)
    return 1.0

def forever(problem, text):
    time.sleep(0.3)
    return float(os.getpid())
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rewards") / "plugins.py"
    path.write_text(FILE)
    return path


def scored(*parts: Part, texts: list[str], deadline_s: float = 5.0) -> list[list[Score]]:
    process = ScoringProcess(parts, 4)
    try:
        return process.score(PROBLEM, [Answer.of_text(index, text) for index, text in enumerate(texts)], deadline_s)
    finally:
        process.close()


def test_a_class_keeps_its_state_and_takes_its_options(file: Path) -> None:
    rows = scored(Part(name=f"{file}:Counting", options={"start": 10, "step": 5}), texts=["a", "b", "c"])
    assert [score.value for (score,) in rows] == [15.0, 20.0, 25.0]


@pytest.mark.parametrize(
    ("attribute", "options", "message"),
    [
        ("Counting", {"start": 1, "stpe": 2}, "unknown option 'stpe'; did you mean 'step'"),
        ("Counting", {}, "option 'start' is missing"),
        ("Counting", {"start": "one"}, "option 'start': .*, got 'one'"),
        ("Counting", {"start": 1, "step": 0}, "its constructor raised ValueError: step must not be 0"),
        ("plain", {"start": 1}, "is no class and takes no options, got start"),
    ],
)
def test_options_are_checked_before_anything_is_scored(file: Path, attribute: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        load_reward(f"{file}:{attribute}", options)


def test_a_batch_gets_all_texts_and_their_lengths_in_one_call(file: Path) -> None:
    assert [score.value for (score,) in scored(Part(name=f"{file}:Lengths"), texts=["a", "b b", "c c c"])] == [31.0, 32.0, 33.0]


@pytest.mark.parametrize(("order", "failure"), [("hang", Failure.DEADLINE), ("exit", Failure.CRASH)])
def test_a_batch_that_takes_its_process_down_is_taken_apart(file: Path, order: str, failure: Failure) -> None:
    rows = scored(Part(name=f"{file}:Lengths"), texts=["a", order, "b b"], deadline_s=0.5)
    assert [score.failure for (score,) in rows] == [None, failure, None]
    assert [rows[0][0].value, rows[2][0].value] == [11.0, 12.0]
    assert f"{file}:Lengths on problem p1, completion 1" in rows[1][0].reason


def test_coroutines_run_side_by_side_and_a_late_or_failing_one_costs_no_other(file: Path) -> None:
    began = time.monotonic()
    rows = scored(Part(name=f"{file}:Waiting"), texts=["a"] * 6 + ["hang", "raise"], deadline_s=1.0)
    assert time.monotonic() - began < 2.5
    assert [score.failure for (score,) in rows] == [None] * 6 + [Failure.DEADLINE, Failure.ERROR]
    assert rows[6][0].reason == f"reward {file}:Waiting on problem p1, completion 6: it took longer than 1 s"
    assert "completion 7: it raised KeyError: 'in a coroutine'" in rows[7][0].reason


def test_a_coroutine_that_blocks_its_loop_is_killed_and_the_others_are_scored(file: Path) -> None:
    rows = scored(Part(name=f"{file}:Waiting"), texts=["a", "block", "b"], deadline_s=1.0)
    assert [score.failure for (score,) in rows] == [None, Failure.DEADLINE, None]


def test_of_several_parts_the_one_that_failed_is_named_and_the_others_keep_their_scores(file: Path) -> None:
    parts = [Part(name=f"{file}:Waiting"), Part(name=f"{file}:plain"), Part(name=f"{file}:Lengths")]
    rows = scored(*parts, texts=["a", "plain-hang", "raise"], deadline_s=1.0)
    assert [score.value for score in rows[0]] == [0.5, 1.0, 11.0]
    assert all(score.failure is Failure.DEADLINE and f"{file}:plain on" in score.reason for score in rows[1])
    assert [score.outcome for score in rows[2]][1] is Outcome.CORRECT and rows[2][0].failure is Failure.ERROR


def test_processes_of_a_pool_work_side_by_side(file: Path) -> None:
    pool = ScoringPool([Part(name=f"{file}:forever")], num_processes=3, deadline_s=5, memory_gb=4)
    began = time.monotonic()
    waiting = [pool.submit(PROBLEM, [Answer.of_text(0, "a")]) for _ in range(6)]
    pids = {future.result()[0][0].value for future in waiting}
    assert time.monotonic() - began < 1.5
    assert pids == {float(pid) for pid in pool.process_ids()}
    pool.close()


def test_closing_a_pool_cancels_what_still_waits(file: Path) -> None:
    pool = ScoringPool([Part(name=f"{file}:forever")], num_processes=1, deadline_s=5, memory_gb=4)
    waiting = [pool.submit(PROBLEM, [Answer.of_text(0, "a")]) for _ in range(20)]
    waiting[0].result()
    pool.close()
    assert waiting[-1].cancelled()


def test_the_memory_of_a_process_is_limited(tmp_path: Path) -> None:
    (tmp_path / "hog.py").write_text("def score(problem, text):\n    return float(len(bytearray(int(text) * 2**20)))\n")
    process = ScoringProcess([Part(name=f"{tmp_path}/hog.py:score")], 0.25)
    (small,), (large,) = process.score(PROBLEM, [Answer.of_text(0, "10"), Answer.of_text(1, "300")], 5)
    process.close()
    assert small.value == 10 * 2**20
    assert large.failure is Failure.MEMORY and large.reason.endswith("needed more than 0.25 GiB of memory")


def test_a_pool_whose_parts_cannot_be_loaded_is_refused() -> None:
    with pytest.raises(RewardError, match="no module named 'nowhere'"):
        ScoringPool([Part(name="nowhere:score")], num_processes=2, deadline_s=5, memory_gb=4)


class Handler(BaseHTTPRequestHandler):
    """Scores a text by its length, as an endpoint of a user's own would."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked["problem"]["id"] == "slow":
            time.sleep(3)
            return
        scores = [{"value": 1, "outcome": "correct", "extracted": text, "reason": asked["problem"]["answer"]} for text in asked["texts"]]
        self.send_response(500 if asked["problem"]["id"] == "bad" else 200)
        self.end_headers()
        self.wfile.write(json.dumps({"scores": [*scores[:-1], 0.25]}).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/score"
    server.shutdown()
    server.server_close()


def test_an_endpoint_is_asked_once_for_all_texts_and_its_failures_are_unscorable(endpoint: str) -> None:
    process = ScoringProcess([Part(name=endpoint)], 4)
    answers = [Answer.of_text(0, "\ud800"), Answer.of_text(1, "b")]
    good, late, bad = [
        [score for (score,) in process.score(Problem(id=id, question="?", images=(), answer="6", kind=AnswerKind.NUMBER), answers, 1.0)]
        for id in ("good", "slow", "bad")
    ]
    process.close()
    assert good == [
        Score(value=1.0, outcome=Outcome.CORRECT, extracted="\ud800", reason="6"),
        Score(value=0.25, outcome=Outcome.WRONG, extracted=None),
    ]
    assert [score.failure for score in late] == [Failure.DEADLINE] * 2
    assert [score.failure for score in bad] == [Failure.ERROR] * 2 and "HTTP 500" in bad[0].reason


def test_requests_to_an_endpoint_end_with_the_deadline(endpoint: str) -> None:
    pool = ScoringPool([Part(name=endpoint)], num_processes=1, deadline_s=0.2, memory_gb=4)
    slow = Problem(id="slow", question="?", images=(), answer="6", kind=AnswerKind.NUMBER)
    late = [pool.submit(slow, [Answer.of_text(0, "a")]) for _ in range(40)]
    assert {row.failure for future in late for (row,) in future.result()} == {Failure.DEADLINE}
    ((good,),) = pool.submit(PROBLEM, [Answer.of_text(0, "a")]).result()
    pool.close()
    assert good.failure is None


def test_an_endpoint_that_is_not_there_is_an_error_not_a_crash() -> None:
    ((score,),) = scored(Part(name="http://127.0.0.1:9/score"), texts=["a"])
    assert score.failure is Failure.ERROR and "ConnectionRefusedError" in score.reason
