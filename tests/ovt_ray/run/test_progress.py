"""Lines of a job's log at times given by a hand-driven clock, and the bar in a terminal."""

import io
import logging
from contextlib import redirect_stdout

import pytest

from ovt_ray.run.progress import Progress, phase


class HandClock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_log_line_names_stage_step_figures_and_eta(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = HandClock()
    with Progress("iter1/grpo", 25, clock=clock) as progress:
        clock.now = 9.0
        progress.step(0, {})
        clock.now = 11.0
        progress.step(1, {"tokens_per_s": 5210.4, "reward": 0.61, "accuracy": 0.58, "grad_norm": 3.0})
    first, second = caplog.messages
    assert first == "[iter1/grpo 1/25] eta -:--"
    assert second == "[iter1/grpo 2/25] reward 0.61 accuracy 0.58 tok/s 5210 eta 0:46", "the first step is slower and does not count"


def test_fast_steps_give_a_line_every_two_seconds_and_the_first_and_last(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = HandClock()
    with Progress("iter1/sft", 100, clock=clock) as progress:
        for step in range(100):
            clock.now += 0.5
            progress.step(step, {"loss": 1.0})
    shown = [int(line.split()[1].partition("/")[0]) for line in caplog.messages]
    assert shown == [*range(1, 100, 4), 100]


def test_the_eta_of_a_resumed_stage_counts_only_the_steps_done_now(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = HandClock()
    with Progress("iter1/grpo", 20, first_step=10, clock=clock) as progress:
        clock.now = 8.0
        progress.step(10, {})
        clock.now = 16.0
        progress.step(11, {})
    assert caplog.messages == ["[iter1/grpo 11/20] eta -:--", "[iter1/grpo 12/20] eta 1:04"]


def test_a_terminal_gets_a_bar_with_the_figures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    terminal = Terminal()
    with redirect_stdout(terminal), Progress("iter1/grpo", 2) as progress:
        progress.step(0, {"reward": 0.25})
        progress.step(1, {"reward": 0.75})
    shown = terminal.getvalue()
    assert "iter1/grpo" in shown
    assert "2/2" in shown
    assert "0.75" in shown


def test_a_phase_says_what_starts_and_how_long_it_took(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = HandClock()
    with phase("starting 2 rollout workers", clock=clock):
        clock.now = 14.25
    assert caplog.messages == ["starting 2 rollout workers ...", "starting 2 rollout workers: done in 14.2 s"]
