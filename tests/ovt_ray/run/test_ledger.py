"""The run folder: resuming, refusing another configuration, crashes in the middle of a line, one process at a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ovt_ray.core.config.file import parse_config
from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.errors import ConfigError, DataError
from ovt_ray.core.files import write_json_atomically
from ovt_ray.run.ledger import RunFolder
from ovt_ray.run.results import StageResult

RESULT = StageResult(iteration=1, stage="sft", accuracy=0.5, ci_low=0.4, ci_high=0.6, num_problems=96, response_tokens=14.5, seconds=30.0)


def make_config(runs_dir: Path, name: str = "demo", seed: int = 0, learning_rate: float = 0.001, keep_rollouts: bool = False) -> RunConfig:
    optimizer = {"learning_rate": learning_rate}
    iteration = {
        "distil": {"source": "caption", "num_problems": 4},
        "sft": {"num_steps": 2, "optimizer": optimizer},
        "grpo": {"num_steps": 2, "optimizer": {"learning_rate": 0.001}, "keep_rollouts": keep_rollouts},
    }
    values = {
        "name": name,
        "runs_dir": str(runs_dir),
        "seed": seed,
        "max_completion_tokens": 32,
        "model": {"path": "some/model"},
        "data": {"format": "embedded"},
        "rollout": {},
        "learner": {},
        "iterations": [iteration],
    }
    return parse_config(values, "test")


def finish_sft(config: RunConfig) -> Path:
    with RunFolder(config) as run:
        model = run.stage_folder(1, "sft") / "model"
        run.start("iter1/sft", inputs=[run.path / "iter1/distil/traces.jsonl"])
        model.mkdir()
        run.finish("iter1/sft", outputs=[model], result=RESULT)
    return model


def test_a_finished_stage_is_found_again_with_its_result(tmp_path: Path) -> None:
    model = finish_sft(make_config(tmp_path))
    with RunFolder(make_config(tmp_path)) as run:
        record = run.finished("iter1/sft")
        assert record is not None
        assert (record.outputs, record.inputs) == ((model,), (tmp_path / "demo/iter1/distil/traces.jsonl",))
        assert record.result == RESULT
        assert run.results() == [RESULT]
        assert run.finished("iter1/grpo") is None


def test_a_stage_whose_output_is_gone_is_unfinished(tmp_path: Path) -> None:
    finish_sft(make_config(tmp_path)).rmdir()
    with RunFolder(make_config(tmp_path)) as run:
        assert run.finished("iter1/sft") is None
        assert run.results() == []


def test_a_stage_that_started_again_is_unfinished(tmp_path: Path) -> None:
    finish_sft(make_config(tmp_path))
    with RunFolder(make_config(tmp_path)) as run:
        run.start("iter1/sft")
        assert run.finished("iter1/sft") is None


def test_a_line_torn_by_a_crash_is_forgotten_and_the_ledger_goes_on(tmp_path: Path) -> None:
    finish_sft(make_config(tmp_path))
    ledger = tmp_path / "demo/ledger.jsonl"
    whole = ledger.read_bytes()
    ledger.write_bytes(whole[:-40])
    with RunFolder(make_config(tmp_path)) as run:
        assert run.finished("iter1/sft") is None
        run.start("iter1/sft")
        run.finish("iter1/sft", outputs=[run.path / "iter1/sft/model"])
        assert run.finished("iter1/sft") is not None
    events = [json.loads(line)["event"] for line in ledger.read_text().splitlines()]
    assert events == ["started", "started", "finished"]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    finish_sft(make_config(tmp_path))
    ledger = tmp_path / "demo/ledger.jsonl"
    ledger.write_text("not json\n" + ledger.read_text())
    with pytest.raises(DataError, match=r"ledger.jsonl line 1: not JSON"):
        RunFolder(make_config(tmp_path))


def test_a_copied_folder_goes_on_under_its_new_name(tmp_path: Path) -> None:
    finish_sft(make_config(tmp_path))
    (tmp_path / "demo").rename(tmp_path / "copy")
    with RunFolder(make_config(tmp_path, name="copy")) as run:
        record = run.finished("iter1/sft")
        assert record is not None
        assert record.outputs == (tmp_path / "copy/iter1/sft/model",)


def test_another_configuration_is_refused_with_every_key_that_differs(tmp_path: Path) -> None:
    finish_sft(make_config(tmp_path))
    with pytest.raises(ConfigError) as refusal:
        RunFolder(make_config(tmp_path, seed=7, learning_rate=0.002))
    message = str(refusal.value)
    assert "seed: 0 there, 7 now" in message
    assert "iterations.0.sft.optimizer.learning_rate: 0.001 there, 0.002 now" in message
    assert "name=NAME" in message
    assert message.count(" there, ") == 2
    with RunFolder(make_config(tmp_path)) as run:  # the refusal let the folder go
        assert run.finished("iter1/sft") is not None


def test_a_run_that_goes_on_may_begin_to_keep_its_rollouts(tmp_path: Path) -> None:
    finish_sft(make_config(tmp_path))
    with RunFolder(make_config(tmp_path, keep_rollouts=True)) as run:
        assert run.finished("iter1/sft") is not None


def test_a_run_that_goes_on_may_change_how_its_weights_travel(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    finish_sft(config)
    with RunFolder(config.model_copy(update={"learner": config.learner.model_copy(update={"weight_transport": "broadcast"})})) as run:
        assert run.finished("iter1/sft") is not None


def test_a_run_that_goes_on_may_reach_its_endpoint_otherwise_but_ask_no_other_model(tmp_path: Path) -> None:
    def config(**changes: object) -> RunConfig:
        values = make_config(tmp_path).model_dump(mode="json", exclude_unset=True)
        endpoint = {"url": "http://a/v1", "model": "teacher"} | changes
        values["iterations"][0]["distil"] = {"source": "endpoint", "num_problems": 4, "endpoint": endpoint}
        return parse_config(values, "test")

    finish_sft(config())
    reached = {"url": "http://b/v1", "api_key_env": "KEY", "concurrency": 3, "num_attempts": 5, "deadline_s": 7.0}
    with RunFolder(config(**reached)) as run:
        assert run.finished("iter1/sft") is not None
    with pytest.raises(ConfigError, match="iterations.0.distil.endpoint.model: 'teacher' there, 'other' now"):
        RunFolder(config(model="other"))


HOLD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_ledger import make_config
from ovt_ray.run.ledger import RunFolder
run = RunFolder(make_config(Path({runs!r})))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_one_is_killed(tmp_path: Path) -> None:
    script = HOLD.format(tests=str(Path(__file__).parent), runs=str(tmp_path))
    root = Path(__file__).parents[3]
    holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=rf"demo is being used by process {holder.pid} on .*name=NAME"):
            RunFolder(make_config(tmp_path))
    finally:
        holder.kill()
        holder.communicate()
    RunFolder(make_config(tmp_path)).close()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json_atomically(path, [1])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_atomically(path, [float("nan")])
    assert json.loads(path.read_text()) == [1]
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_a_run_that_has_finished_nothing_takes_a_corrected_configuration(tmp_path: Path) -> None:
    RunFolder(make_config(tmp_path, seed=1)).close()
    RunFolder(make_config(tmp_path, seed=2)).close()
    assert json.loads((tmp_path / "demo/config.json").read_text())["seed"] == 2
