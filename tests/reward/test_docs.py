"""The examples of docs/rewards.md are run as they stand there."""

import re
from pathlib import Path

import pytest
import yaml

from ovt_ray.core.config.run import RewardConfig
from ovt_ray.core.types import AnswerKind, Problem
from reward.pool import RewardPool

pytestmark = pytest.mark.heavy

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()
PROBLEM = Problem(id="p1", question="?", images=(), answer="6", kind=AnswerKind.NUMBER)
TEXTS = ["it is 6", "seven", "it is 6"]


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def name_in(example: str) -> str:
    (name,) = re.findall(r"^(?:def|class) (\w+)", example, re.MULTILINE)
    return name


SCORES = {
    "contains": [1.0, 0.0, 1.0],
    "Brevity": [1.0, 1.0, 1.0],
    "Diversity": [0.5, 1.0, 0.5],
    "Remote": [1.0, 0.0, 1.0],
    "Judge": [1.0, 1.0, 1.0],
}


def test_every_example_is_known() -> None:
    assert [name_in(example) for example in examples("python")] == list(SCORES)


def test_every_example_scores_as_one_of_the_parts_of_a_pool(ray_session: None, tmp_path: Path) -> None:
    parts = []
    for example in examples("python"):
        path = tmp_path / f"{name_in(example)}.py"
        path.write_text(example)
        parts.append({"name": f"{path}:{name_in(example)}"})
    pool = RewardPool(RewardConfig.model_validate({"parts": parts}))
    scores = pool.collect(pool.submit_texts(PROBLEM, TEXTS))
    pool.close()
    assert {Path(part["name"]).stem: [score.parts[part["name"]] for score in scores] for part in parts} == SCORES


@pytest.mark.parametrize("example", examples("yaml"))
def test_every_config_on_the_page_is_valid(example: str) -> None:
    assert RewardConfig.model_validate(yaml.safe_load(example)["reward"]).parts


def test_an_example_takes_ten_lines_or_so() -> None:
    for example in examples("python"):
        assert len([line for line in example.splitlines() if line.strip()]) <= 10
