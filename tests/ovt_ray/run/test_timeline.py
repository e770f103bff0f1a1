"""The timeline: what a log of spans records, what the file says to a viewer of traces, what the busy shares are."""

import json
from pathlib import Path
from typing import Any

import pytest

from ovt_ray.core.spans import ActorSpans, Span, SpanLog, recorded
from ovt_ray.run.metrics import read_metrics
from ovt_ray.run.recorder import Recorder
from ovt_ray.run.timeline import Timeline, busy_shares


class Learner:
    """Updates in two passes."""

    def __init__(self) -> None:
        self.spans = SpanLog()

    @recorded
    def update(self, num_passes: int) -> int:
        for _ in range(num_passes):
            with self.spans.during("forward"):
                pass
        return num_passes


def rank(*spans: Span, number: int = 0) -> ActorSpans:
    return ActorSpans(kind="learner rank", number=number, spans=spans)


def worker(*spans: Span, number: int = 0) -> ActorSpans:
    return ActorSpans(kind="rollout worker", number=number, spans=spans)


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """Return the events as a viewer reads them: the array is not closed."""
    text = (run_dir / "timeline.json").read_text()
    assert text.startswith("[\n") and text.endswith(",\n")
    return list(json.loads(text.rstrip(",\n") + "]"))


def test_a_recorded_call_holds_what_was_done_in_it_and_is_told_of_once() -> None:
    learner = Learner()
    assert learner.update(2) == 2
    first, second, update = learner.spans.take()
    assert [span.name for span in (first, second, update)] == ["forward", "forward", "update"]
    assert update.start <= first.start <= first.end <= second.start <= second.end <= update.end
    assert learner.spans.take() == ()


def test_a_state_that_lasts_is_cut_where_it_is_taken_and_nothing_is_lost_between() -> None:
    log = SpanLog()
    log.switch("generate")
    log.switch("generate")
    (first,) = log.take()
    log.switch("load")
    log.switch(None)
    second, load = log.take()
    assert [span.name for span in (first, second, load)] == ["generate", "generate", "load"]
    assert first.end == second.start and second.end == load.start
    assert log.take() == ()


def test_an_error_ends_a_span_too() -> None:
    log = SpanLog()
    with pytest.raises(ZeroDivisionError), log.during("update"):
        1 / 0  # noqa: B018
    assert [span.name for span in log.take()] == ["update"]


def test_each_actor_is_a_process_with_its_name_and_each_span_a_complete_event(tmp_path: Path) -> None:
    inner, outer = Span("forward", 100.0000014, 100.2500006), Span("update", 100.0, 100.2500006)
    actors = [worker(Span("generate", 99.0, 99.5)), rank(inner, outer)]
    Timeline(tmp_path, "iter1/grpo").add(3, actors)
    about = [(event["pid"], event["args"]) for event in read_events(tmp_path) if event["name"] == "process_name"]
    assert about == [(1, {"name": "rollout worker 0"}), (2, {"name": "learner rank 0"})]
    spans = [(event["name"], event["ts"], event["dur"], event["pid"]) for event in read_events(tmp_path) if event["ph"] == "X"]
    # a span comes before what lies within it, whose end does not stick out by rounding
    assert spans == [("generate", 99_000_000, 500_000, 1), ("update", 100_000_000, 250_001, 2), ("forward", 100_000_001, 250_000, 2)]
    assert {json.dumps(event["args"]) for event in read_events(tmp_path) if event["ph"] == "X"} == {'{"stage": "iter1/grpo", "step": 3}'}


def test_a_run_that_goes_on_appends_after_the_last_whole_event(tmp_path: Path) -> None:
    Timeline(tmp_path, "iter1/grpo").add(0, [rank(Span("update", 1.0, 2.0))])
    with (tmp_path / "timeline.json").open("a") as file:
        file.write('{"name": "upd')
    Timeline(tmp_path, "iter1/grpo").add(1, [rank(Span("update", 5.0, 6.0))])
    events = [event for event in read_events(tmp_path) if event["ph"] == "X"]
    assert [(event["ts"], event["args"]["step"], event["pid"]) for event in events] == [(1_000_000, 0, 1), (5_000_000, 1, 1)]


def test_busy_shares_are_means_over_the_actors_of_what_counts() -> None:
    workers = [worker(Span("generate", 0.0, 3.0), Span("load", 3.0, 4.0)), worker(Span("generate", 0.0, 1.0), number=1)]
    ranks = [rank(Span("logprobs", 0.0, 1.0), Span("forward", 1.0, 2.0), Span("update", 1.0, 3.0), Span("publish", 3.0, 4.0))]
    assert busy_shares([*workers, *ranks], 4.0) == {"rollout_busy": 0.5, "learner_busy": 0.75}
    assert busy_shares([], 4.0) == {}


def test_a_track_writes_the_phases_of_the_driver_beside_what_the_actors_did(tmp_path: Path) -> None:
    done = [[worker(Span("generate", 0.0, 0.1))], [worker()], [worker(Span("generate", 1.0, 9.0))]]
    with Recorder(tmp_path, "iter1/grpo", num_steps=2, first_step=0, take_spans=lambda: done.pop(0)) as recorder:
        for step in range(2):
            recorder.begin("generate")
            recorder.begin("update")
            recorder.step(step, {"seconds_update": recorder.end_phases()["update"]})
    events = [event for event in read_events(tmp_path) if event["ph"] == "X"]
    assert [(event["name"], event["pid"], event["args"]["step"]) for event in events] == [
        ("generate", 2, 0),
        ("generate", 1, 0),
        ("update", 1, 0),
        ("generate", 1, 1),
        ("update", 1, 1),
        ("generate", 2, 1),
    ]
    # what was done before the first step is in no share
    assert [row.values["rollout_busy"] for row in read_metrics(tmp_path)] == [0.0, 1.0]
