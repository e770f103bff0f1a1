"""What a session keeps of earlier ones, what it does again, and which model is the newest."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ovt_ray.core.config.file import load_config
from ovt_ray.core.config.run import RunConfig
from ovt_ray.data.tasks import load_tasks
from ovt_ray.run.ledger import RunFolder
from ovt_ray.run.results import measured, read_results
from ovt_ray.stages.base import first_model
from ovt_ray.stages.session import Session

RESULT = measured(1, "sft", num_correct=1, num_problems=2, response_tokens=5.0, seconds=1.0)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return load_config(Path("configs/tiny.yaml"), ["data.num_eval=1", f"runs_dir={tmp_path}"])


@pytest.fixture
def folder(config: RunConfig) -> Iterator[RunFolder]:
    with RunFolder(config) as folder:
        yield folder


def session(config: RunConfig, folder: RunFolder) -> Session:
    tasks = load_tasks(config.data, config.seed, folder.path / "images", config.problem_folder)
    return Session(config, folder, tasks, "first")


def finish(session: Session, iteration: int, name: str) -> Path:
    """Do a stage that leaves a model and a checkpoint; return its model."""
    stage = session.start(iteration, name)
    model = stage.folder / "model"
    for made in (model, stage.checkpoints):
        made.mkdir(parents=True, exist_ok=True)
    session.finish(stage, [model], RESULT)
    return model


def test_a_stage_of_an_earlier_session_is_kept_and_its_model_is_the_newest(config: RunConfig, folder: RunFolder) -> None:
    earlier = session(config, folder)
    assert earlier.newest_model == "first" and earlier.kept(1, "sft") is None
    model = finish(earlier, 1, "sft")
    assert earlier.newest_model == str(model)
    later = session(config, folder)
    assert (kept := later.kept(1, "sft")) and kept.model == model
    assert later.newest_model == str(model)


def test_a_stage_without_a_model_leaves_the_newest_as_it_is(config: RunConfig, folder: RunFolder) -> None:
    earlier = session(config, folder)
    traces = earlier.start(1, "distil").folder / "traces.jsonl"
    traces.write_text("")
    earlier.finish(earlier.start(1, "distil"), [traces])
    later = session(config, folder)
    assert (kept := later.kept(1, "distil")) and kept.model is None and kept.outputs == (traces,)
    assert earlier.newest_model == later.newest_model == "first"


def test_what_follows_a_stage_that_is_done_again_is_done_again_from_its_beginning(config: RunConfig, folder: RunFolder) -> None:
    earlier = session(config, folder)
    models = [finish(earlier, 1, name) for name in ("sft", "grpo")]
    left_over = folder.path / "iter1/grpo/checkpoints"
    left_over.mkdir()
    models[0].rmdir()  # the ledger calls the stage finished, and its output is gone
    later = session(config, folder)
    assert later.kept(1, "sft") is None
    finish(later, 1, "sft")
    assert later.kept(1, "grpo") is None and later.newest_model == str(models[0])
    later.start(1, "grpo")
    assert not left_over.exists(), "checkpoints of an attempt with another input"


def test_the_first_unfinished_stage_goes_on_from_its_checkpoints(config: RunConfig, folder: RunFolder) -> None:
    earlier = session(config, folder)
    finish(earlier, 1, "sft")
    checkpoints = earlier.start(1, "grpo").checkpoints
    checkpoints.mkdir()
    later = session(config, folder)
    assert later.kept(1, "sft") and later.kept(1, "grpo") is None
    assert later.start(1, "grpo").checkpoints == checkpoints and checkpoints.exists()


def test_checkpoints_of_a_finished_stage_are_removed_and_its_result_is_written(config: RunConfig, folder: RunFolder) -> None:
    finish(session(config, folder), 1, "sft")
    checkpoints = folder.path / "iter1/sft/checkpoints"
    assert not checkpoints.exists() and read_results(folder.path) == [RESULT]
    checkpoints.mkdir()  # the process died between the ledger's line and the removal
    assert session(config, folder).kept(1, "sft") and not checkpoints.exists()


def test_random_weights_that_an_earlier_session_built_are_kept(tmp_path: Path) -> None:
    base = "base={num_steps: 1, optimizer: {learning_rate: 0.1}}"
    config = load_config(Path("configs/tiny.yaml"), [base, "data.num_eval=1", f"runs_dir={tmp_path}"])
    with RunFolder(config) as folder:
        built = folder.stage_folder(0, "init")
        folder.start("iter0/init")
        folder.finish("iter0/init", [built])
        assert first_model(config, folder) == str(built) and not list(built.iterdir())
