"""Formats on the files that the data sets publish: every row makes a problem that can be shown and scored, or is listed with the reason."""

import json
from collections import Counter
from pathlib import Path

import pytest

from ovt_ray.core.config.data import DataConfig
from ovt_ray.core.config.run import ModelConfig
from ovt_ray.core.errors import DataError
from ovt_ray.core.prompts import EMBEDDED_MODEL, Prompts
from ovt_ray.core.types import Outcome, Problem
from ovt_ray.data.sources import load_problems
from reward.accuracy import score_accuracy
from tests.ovt_ray.data.formats.published import picture, read

GEOMETRY3K = "geometry3k_examples/annotation_tool/data_collection/data_examples"


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts(str(EMBEDDED_MODEL), ModelConfig(path="embedded"))


def check_shown_and_scored(problems: list[Problem], prompts: Prompts) -> None:
    """Each problem's text renders, each image decodes once, ids differ, and the gold answer is right, another one is not."""
    one_of_each = {problem.images: problem for problem in problems}
    assert all(len(prompts.images(problem)) == len(problem.images) for problem in one_of_each.values())
    assert len({problem.id for problem in problems}) == len(problems)
    for problem in problems:
        assert problem.question in prompts.text(problem)
        assert "<image" not in problem.question
        assert score_accuracy(problem, f"<think> so </think> <answer> {problem.answer} </answer>").outcome is Outcome.CORRECT, problem
        assert score_accuracy(problem, "<think> so </think> <answer> zebra 71 </answer>").outcome is Outcome.WRONG, problem


def test_every_problem_of_geometry3k_has_the_choice_that_its_letter_names(shared: Path, prompts: Prompts) -> None:
    problems, messages = read("geometry3k", shared / GEOMETRY3K)
    assert messages == []
    check_shown_and_scored(problems, prompts)
    assert [problem.id for problem in problems] == [str(number) for number in range(11, 21)]
    for problem in problems:
        row = json.loads((shared / GEOMETRY3K / problem.id / "data.json").read_text())
        assert problem.choices.index(problem.answer) == "ABCD".index(row["answer"])
        assert problem.images == (str(shared.resolve() / GEOMETRY3K / problem.id / "img_diagram.png"),)
    sine = problems[8]
    assert (sine.question, sine.answer) == (r"Find $\sin x$", r"\frac{2\sqrt{2}}{5}")
    assert read("geometry3k", shared / GEOMETRY3K, "eval") == ([], [])  # all ten say that they are of the training split


def test_every_question_of_super_clevr_has_an_answer_of_its_kind(shared: Path, prompts: Prompts) -> None:
    problems, messages = read("super_clevr", shared / "super_clevr")
    assert messages == []
    check_shown_and_scored(problems, prompts)
    assert Counter(problem.kind.value for problem in problems) == {"text": 35 + 225, "yesno": 158, "number": 45}
    assert Counter(problem.answer for problem in problems if problem.kind.value == "yesno") == {"no": 84, "yes": 74}
    assert len({problem.images for problem in problems}) == 5
    one_file, _ = read("super_clevr", shared / "super_clevr/output/superCLEVR_questions_5.json")
    assert one_file == problems[:238]
    assert read("super_clevr", shared / "super_clevr", "eval") == ([], [])  # its images are the first ten of 30,000


def test_every_problem_of_mathvision_loads_for_evaluation_only(shared: Path, prompts: Prompts) -> None:
    problems, messages = read("mathvision", shared / "mathvision", "eval")
    assert messages == []
    check_shown_and_scored(problems, prompts)
    lines = (shared / "mathvision/data/testmini.jsonl").read_text().splitlines()
    for problem, row in zip(problems, map(json.loads, lines), strict=True):
        assert list(problem.choices) == row["options"]
        assert problem.answer == (row["options"]["ABCDE".index(row["answer"])] if row["options"] else row["answer"])
    with pytest.raises(DataError, match="mathvision is an evaluation set, never to be trained on"):
        read("mathvision", shared / "mathvision", "train")


def test_a_run_learns_from_one_data_set_and_is_measured_on_a_benchmark(shared: Path, tmp_path: Path) -> None:
    paths = {"path": shared / "super_clevr", "eval_path": shared / "mathvision"}
    loaded = load_problems(DataConfig(format="super_clevr", eval_format="mathvision", num_eval=10, **paths), tmp_path)
    assert (len(loaded.train), len(loaded.held_out), loaded.dropped) == (463, 10, ())
    assert {problem.source for problem in loaded.held_out} == {"mathvision"}
    with pytest.raises(DataError, match=r"never to be trained on: give it as data.eval_path, with its data.eval_format"):
        load_problems(DataConfig(format="mathvision", path=shared / "mathvision"), tmp_path)


def test_hallusionbench_has_its_questions_without_image_and_names_the_missing_images(shared: Path, prompts: Prompts) -> None:
    problems, messages = read("hallusionbench", shared / "hallusionbench", "eval")
    check_shown_and_scored(problems, prompts)
    assert (len(problems), len(messages)) == (178, 1129 - 178)
    assert all("no such file" in message for message in messages)
    assert {(problem.kind.value, problem.images) for problem in problems} == {("yesno", ())}


def test_mathvista_names_the_missing_images_and_with_them_all_problems_are_scorable(shared: Path, prompts: Prompts, tmp_path: Path) -> None:
    assert all("no such file" in message for message in read("mathvista", shared / "mathvista", "eval")[1])
    (tmp_path / "testmini.json").symlink_to(shared / "mathvista/data/testmini.json")
    image = picture(tmp_path / "images/1.jpg")
    for number in range(2, 1001):
        image.with_name(f"{number}.jpg").hardlink_to(image)
    problems, messages = read("mathvista", tmp_path, "eval")
    assert messages == []
    assert Counter(problem.kind.value for problem in problems) == {"choice": 540, "number": 418 + 40, "list": 2}
    assert problems[0].precision == 1
    assert problems[1].question == "what is the total volume of the measuring cup? (Unit: g)"
    check_shown_and_scored(problems, prompts)


def test_mmmu_names_the_missing_images_of_its_samples(shared: Path) -> None:
    problems, messages = read("mmmu", shared / "mmmu/mmmu-pro/tool/data.jsonl", "eval")
    assert (len(problems), len(messages)) == (0, 21)
    assert all("no such file" in message for message in messages)
