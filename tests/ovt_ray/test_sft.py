"""The SFT loop: every trace is seen once an epoch, those held out never; stopping and going on changes nothing."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest

from ovt_ray.core.config.stages import Optimizer, SftConfig
from ovt_ray.core.errors import StageError
from ovt_ray.core.types import AnswerKind, Problem, TrainSample, UpdateStats
from ovt_ray.run.metrics import read_metrics
from ovt_ray.run.recorder import Recorder
from ovt_ray.sft import hold_out, num_sft_steps, train_sft


def sample(problem: int, token: int) -> TrainSample:
    where = Problem(id=f"p{problem}", question="?", images=(), answer="1", kind=AnswerKind.NUMBER)
    return TrainSample(problem=where, completion_ids=(token,))


SAMPLES = [sample(number, number) for number in range(10)]
HELD_OUT = [sample(99, 99)]


@dataclass
class Learner:
    batches: list[list[int]] = field(default_factory=list)
    """The tokens of each update."""
    measured: list[int] = field(default_factory=list)
    """After how many updates the loss on HELD_OUT was asked for."""
    saved: list[int] = field(default_factory=list)

    def update(self, samples: Sequence[TrainSample]) -> UpdateStats:
        self.batches.append([sample.completion_ids[0] for sample in samples])
        names = [item.name for item in fields(UpdateStats)]
        return UpdateStats(**dict.fromkeys(names, 1.0) | {"num_samples": len(samples), "num_loss_tokens": 1})  # type: ignore[arg-type]

    def validation_loss(self, samples: Sequence[TrainSample]) -> float:
        assert samples == HELD_OUT
        self.measured.append(len(self.batches))
        return 0.5 * len(self.batches)

    def save(self, folder: Path, step: int) -> None:
        self.saved.append(step)


def section(**changes: Any) -> SftConfig:
    return SftConfig.model_validate({"batch_size": 4, "optimizer": Optimizer(learning_rate=0.1), **changes})


def run(folder: Path, config: SftConfig, held_out: Sequence[TrainSample] = (), first_step: int = 0) -> Learner:
    learner = Learner()
    with Recorder(folder, "iter1/sft", num_steps=num_sft_steps(config, len(SAMPLES)), first_step=first_step) as recorder:
        train_sft(
            config,
            SAMPLES,
            learner,
            recorder,
            held_out=held_out,
            checkpoints=folder,
            checkpoint_every=2,
            first_step=first_step,
            seed=5,
        )
    return learner


def test_one_epoch_sees_every_trace_exactly_once_the_last_batch_being_smaller(tmp_path: Path) -> None:
    batches = run(tmp_path, section(num_epochs=1)).batches
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(token for batch in batches for token in batch) == list(range(10))


def test_each_epoch_is_shuffled_anew_and_half_of_one_is_half_of_its_batches(tmp_path: Path) -> None:
    batches = run(tmp_path, section(num_epochs=2.5)).batches
    epochs = [[token for batch in batches[start : start + 3] for token in batch] for start in (0, 3, 6)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10)) and epochs[0] != epochs[1]
    assert [len(batch) for batch in batches[6:]] == [4, 4]


def test_steps_are_full_batches(tmp_path: Path) -> None:
    batches = run(tmp_path, section(num_steps=5)).batches
    assert [len(batch) for batch in batches] == [4] * 5
    assert all(count == 1 for count in Counter(batches[0] + batches[1]).values())


@pytest.mark.parametrize("length", [{"num_steps": 7}, {"num_epochs": 2}])
def test_a_stage_that_goes_on_at_any_checkpoint_takes_the_steps_that_are_left(tmp_path: Path, length: dict[str, int]) -> None:
    whole = run(tmp_path / "whole", section(**length), HELD_OUT)
    rows = [(row.step, row.values.get("validation_loss")) for row in read_metrics(tmp_path / "whole")]
    assert whole.saved == [2, 4, 6][: len(whole.saved)] and len(whole.batches) == len(rows)
    for step in whole.saved:
        rest = run(tmp_path / str(step), section(**length), HELD_OUT, first_step=step)
        assert rest.batches == whole.batches[step:]
        assert [step + number for number in rest.measured] == [number for number in whole.measured if number > step]


def test_the_loss_on_held_out_traces_is_measured_at_checkpoints_and_at_the_end(tmp_path: Path) -> None:
    learner = run(tmp_path, section(num_steps=5), HELD_OUT)
    assert (learner.measured, learner.saved) == ([2, 4, 5], [2, 4])
    rows = read_metrics(tmp_path)
    assert {row.step: row.values["validation_loss"] for row in rows if "validation_loss" in row.values} == {1: 1.0, 3: 2.0, 4: 2.5}
    assert run(tmp_path, section(num_steps=5)).measured == [], "nothing is held out"


def test_the_progress_line_shows_the_loss_on_held_out_traces(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(tmp_path, section(num_steps=5), HELD_OUT)
    assert "[iter1/sft 5/5] loss 1.000 validation 2.500" in caplog.text


def test_all_traces_of_a_problem_are_on_one_side() -> None:
    samples = [sample(problem, 10 * problem + trace) for problem in range(20) for trace in range(1 + problem % 3)]
    train, held_out = hold_out(samples, 0.25, seed=3)
    problems = [{item.problem.id for item in side} for side in (train, held_out)]
    assert not problems[0] & problems[1] and len(problems[1]) == 5
    assert sorted(train + held_out, key=samples.index) == samples
    assert hold_out(samples, 0.25, seed=3) == (train, held_out) != hold_out(samples, 0.25, seed=4)


def test_a_share_is_of_the_problems_and_at_least_one_of_them() -> None:
    many_of_one = [sample(0, token) for token in range(90)] + [sample(problem, 0) for problem in range(1, 10)]
    assert {len({item.problem.id for item in hold_out(many_of_one, 0.2, seed)[1]}) for seed in range(20)} == {2}
    assert len(hold_out(SAMPLES, 0.001, seed=0)[1]) == 1
    assert hold_out(SAMPLES, 0, seed=0) == (SAMPLES, [])


def test_a_share_that_leaves_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(StageError, match="validation_share=0.1 leaves none of 1 problems with traces to train on"):
        hold_out(SAMPLES[:1], 0.1, seed=0)
