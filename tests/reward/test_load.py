"""A reward is found by its name, and each mistake in the name has its own message."""

from pathlib import Path

import pytest

from ovt_ray.core.errors import RewardError
from ovt_ray.core.types import AnswerKind, Problem
from reward.accuracy import score_accuracy
from reward.load import load_reward
from reward.service.places import runs_in_ray

PROBLEM = Problem(id="p1", question="?", images=(), answer="6", kind=AnswerKind.NUMBER)
FILE = """
from __future__ import annotations
from dataclasses import dataclass
from ovt_ray.core.types import Outcome, Problem, Score

BONUS = 3

@dataclass(slots=True, kw_only=True)
class Length:
    num_chars: int

def score_length(problem: Problem, text: str) -> Score:
    length = Length(num_chars=len(text))
    return Score(value=float(length.num_chars), outcome=Outcome.CORRECT, extracted=text)

def score_alone(text: str) -> Score:
    return score_length(None, text)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A user's file with rewards and with what is none."""
    path = tmp_path / "my_rewards.py"
    path.write_text(FILE)
    return path


def test_a_reward_is_found_in_a_package() -> None:
    assert load_reward("reward.accuracy:score_accuracy").call is score_accuracy


def test_a_reward_is_found_in_a_file(file: Path) -> None:
    assert load_reward(f"{file}:score_length").call(PROBLEM, "abcd").value == 4.0


def test_a_relative_path_starts_at_the_working_directory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert load_reward("my_rewards.py:score_length").call(PROBLEM, "ab").value == 2.0
    with pytest.raises(RewardError, match=f"no file {file.parent}/other.py .*relative paths start at {file.parent}"):
        load_reward("other.py:score")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("score_accuracy", "is not of the form package.module:Name or path/file.py:Name"),
        ("reward.accuracy:", "is not of the form"),
        ("reward.accuracy:a.b", "is not of the form"),
        ("rewards.accuracy:score_accuracy", "no module named 'rewards'; give path/file.py:Name"),
        ("reward.acuracy:score_accuracy", "no module named 'reward.acuracy'"),
        ("reward.accuracy:score_acuracy", "reward.accuracy has no 'score_acuracy'; did you mean 'score_accuracy'"),
        ("reward.verifier.extract:ANSWER", "has neither __call__"),
        ("reward.verifier.extract:extract_answer", r"takes \(text: str\) -> .*; it is called as \(problem, text\)"),
    ],
)
def test_a_wrong_name_says_what_is_wrong(name: str, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        load_reward(name)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("score_lenght", "did you mean 'score_length'"),
        ("BONUS", "has neither __call__"),
        ("score_alone", r"it is called as \(problem, text\): too many positional arguments"),
    ],
)
def test_a_wrong_name_in_a_file_says_what_is_wrong(file: Path, attribute: str, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        load_reward(f"{file}:{attribute}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import a_package_nobody_has", "needs 'a_package_nobody_has', which is not installed"),
        ("1 / 0", "raised ZeroDivisionError: division by zero"),
        ("def score(:", "raised SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_imported_says_why(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "broken.py").write_text(source)
    with pytest.raises(RewardError, match=message):
        load_reward(f"{tmp_path}/broken.py:score")


def test_where_a_reward_runs_is_found_out_without_importing_it_here(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import os, ray\n@ray.remote\nclass Far: ...\ndef near(problem, text): ...\n")
    (tmp_path / "fatal.py").write_text("import os\nos._exit(3)\n")
    assert runs_in_ray(f"{tmp_path}/mine.py:Far") and not runs_in_ray(f"{tmp_path}/mine.py:near")
    assert not runs_in_ray(f"{tmp_path}/fatal.py:score"), "its scoring process says what is wrong"
    assert runs_in_ray("actor:judge") and not runs_in_ray("http://127.0.0.1:9/score")
