"""The command line: mistakes are named in one message, without a traceback, before anything heavy is imported."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ovt_ray.cli import COMMANDS, parser_of
from ovt_ray.commands import check
from tests.ovt_ray.forked_commands import forked_command

pytestmark = pytest.mark.heavy
ROOT = Path(__file__).parents[2]
Forked = Callable[..., subprocess.CompletedProcess[str]]
DATASET = [f"iterations[{turn}].distil={{source: dataset, num_problems: 60}}" for turn in (0, 1)]


def ovt_ray(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ovt_ray", *arguments]
    return subprocess.run(command, cwd=cwd, env=outside_ray(**environment), capture_output=True, text=True, timeout=120)


def outside_ray(**more: str) -> dict[str, str]:
    """Return the environment of a command that starts a cluster of its own."""
    return {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | more


@pytest.fixture
def forked(tmp_path_factory: pytest.TempPathFactory) -> Forked:
    """As `ovt_ray`, for commands that go beyond the configuration and so import torch and DeepSpeed."""
    folder = tmp_path_factory.mktemp("output")
    return lambda *arguments, **environment: forked_command(arguments, outside_ray(**environment), folder)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_its_arguments(command: str) -> None:
    done = ovt_ray(command, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: ovt-ray {command} "), done.stderr


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_mistake_in_the_yaml_is_named_without_a_traceback(command: str) -> None:
    done = ovt_ray(command, "configs/tiny.yaml", "learner.zero_stge=3")
    assert done.returncode == 1
    assert done.stderr == "\nConfigError: configs/tiny.yaml: learner.zero_stge: unknown key; did you mean 'zero_stage'?\n"
    assert done.stdout == ""


def test_a_mistake_in_the_yaml_is_found_before_anything_heavy_is_imported() -> None:
    code = (
        "import sys; from ovt_ray.cli import main; main(['check', 'configs/tiny.yaml', 'nam=x']);"
        "print(*sorted({'torch', 'ray', 'vllm', 'transformers', 'deepspeed', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "did you mean 'name'?" in done.stderr and done.stdout.split() == []


def test_check_shows_reward_prompt_trained_weights_deepspeed_and_resources(forked: Forked) -> None:
    overrides = ("learner.zero_stage=3", "learner.offload_parameters=true", "learner.lora={rank: 8, alpha: 16}")
    done = forked("check", "configs/tiny.yaml", *overrides)
    assert done.returncode == 0, done.stderr
    assert "reward.accuracy:score_accuracy loads" in done.stdout
    assert "<|image_pad|>" in done.stdout
    # rank x (inputs + outputs) of the seven linear layers of each of four blocks
    assert f"iterations.1.grpo: trains {4 * 8 * (2 * 256 + 2 * 192 + 3 * 512):,} of 1,126,208 weights, in adapters" in done.stdout
    assert '"stage": 3' in done.stdout and '"offload_param": {"device": "cpu"' in done.stdout
    assert "the services ask for 4.1 CPU, 0 GPU" in done.stdout


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("reward.parts=[{name: reward.accuracy:score_acuracy}]", "did you mean 'score_accuracy'"),
        (
            "reward.parts=[{name: reward.shaping:OverlongPenalty, options: {max_tokens: 9, bufer_tokens: 3}}]",
            "did you mean 'buffer_tokens'",
        ),
        ("model.path=/nowhere", "model.path: no configuration can be loaded from '/nowhere'"),
        ("rollout.max_model_len=60", "rollout.max_model_len: 60 less 48 of max_completion_tokens leaves 12 tokens"),
    ],
)
def test_check_names_what_is_wrong(forked: Forked, override: str, message: str) -> None:
    done = forked("check", "configs/tiny.yaml", override)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["run", "check"])
def test_every_mistake_is_reported_and_not_the_first_alone(forked: Forked, command: str, tmp_path: Path) -> None:
    wrong = ("reward.parts=[{name: reward.accuracy:score_acuracy}]", "rollout.max_model_len=60", "captioner.path=/nowhere")
    done = forked(command, "configs/tiny.yaml", f"runs_dir={tmp_path}", *wrong)
    assert done.returncode == 1 and "starting the services" not in done.stdout
    heading, *mistakes = done.stderr.strip().splitlines()
    assert heading == "StartError: 3 mistakes; the run starts once each is mended"
    assert [mistake[:16] for mistake in mistakes] == ["1. RewardError: ", "2. ConfigError: ", "3. ConfigError: "]
    for mistake, text in zip(mistakes, ("'score_accuracy'?", "problem train-", "captioner.path: "), strict=True):
        assert text in mistake


def test_a_folder_that_cannot_be_written_hides_no_other_mistake(forked: Forked, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": "1", "question": "1 + 1?", "images": [], "answer": "2"}\n')
    (tmp_path / "file").touch()
    data = (f"runs_dir={tmp_path}/file", f"data={{format: jsonl, path: {tmp_path}/rows.jsonl, num_eval: 1}}", *DATASET)
    done = forked("check", "configs/tiny.yaml", *data)
    assert done.returncode == 1 and done.stderr.startswith("\nNot a directory: ")
    done = forked("check", "configs/tiny.yaml", *data, "reward.parts=[{name: reward.accuracy:score_acuracy}]")
    assert "1. RewardError: " in done.stderr and "2. NotADirectoryError: " in done.stderr


@pytest.mark.parametrize("arguments", [("-q", "check", "configs/tiny.yaml"), ("check", "configs/tiny.yaml", "-q")])
def test_quiet_may_stand_before_or_after_the_command(arguments: tuple[str, ...]) -> None:
    parser = parser_of({"check": check})
    assert parser.parse_args(arguments).log_level == logging.WARNING
    assert parser.parse_args(["check", "configs/tiny.yaml"]).log_level == logging.INFO


def test_a_check_that_needs_the_model_is_skipped_where_the_model_is_the_mistake(forked: Forked) -> None:
    done = forked("check", "configs/tiny.yaml", "model.path=/nowhere", "rollout.max_model_len=60")
    assert done.returncode == 1
    assert done.stderr.startswith("\nConfigError: model.path: no configuration can be loaded from '/nowhere'")
    assert "reward.accuracy:score_accuracy loads" in done.stdout and "prompt of problem" not in done.stdout


def test_a_prompt_that_leaves_no_room_stops_a_run_before_any_service_starts(forked: Forked, tmp_path: Path) -> None:
    done = forked("run", "configs/tiny.yaml", f"runs_dir={tmp_path}", "rollout.max_model_len=60")
    assert done.returncode == 1 and "starting the services" not in done.stdout
    assert done.stderr.startswith("\nConfigError: rollout.max_model_len: 60 less 48 of max_completion_tokens leaves 12 tokens, problem ")
    assert not (tmp_path / "demo" / "images").exists(), "the problem of the check is none of the run's"


def test_a_cluster_that_does_not_answer_is_one_mistake_among_others(forked: Forked) -> None:
    done = forked("check", "configs/tiny.yaml", "rollout.max_model_len=60", RAY_ADDRESS="nowhere.invalid:6379")
    assert "1. ConfigError: rollout.max_model_len: " in done.stderr
    assert "2. ConfigError: RAY_ADDRESS=nowhere.invalid:6379: no cluster answers there" in done.stderr


def test_a_file_of_the_user_that_shadows_a_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text("def score(problem, text): ...\n")
    done = ovt_ray("run", str(ROOT / "configs/tiny.yaml"), cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 1 and "reward.py" in done.stderr and "Traceback" not in done.stderr


def test_a_broken_row_is_refused_by_name_before_anything_starts(forked: Forked, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "a", "question": "?", "images": ["gone.png"], "answer": "1"}\n{"id": "b", "question": "?", "answer": ""}\n')
    done = forked("run", "configs/tiny.yaml", "data.format=jsonl", f"data.path={rows}", f"runs_dir={tmp_path}", *DATASET)
    assert done.returncode == 1 and "starting the services" not in done.stdout and "Traceback" not in done.stderr
    assert "row 1 (id 'a'): images[0]:" in done.stderr and "row 2 (id 'b'): answer" in done.stderr


def test_a_step_of_more_problems_than_there_are_is_refused_before_anything_starts(forked: Forked, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"id": "{number}", "question": "{number} + 1?", "answer": "{number + 1}"}}\n' for number in range(30)))
    done = forked("run", "configs/tiny.yaml", "data.format=jsonl", f"data.path={rows}", "data.num_eval=5", f"runs_dir={tmp_path}", *DATASET)
    assert done.returncode == 1 and "starting the services" not in done.stdout
    assert "iterations.0.grpo.problems_per_step=32 asks for more problems than the data has (25)" in done.stderr
