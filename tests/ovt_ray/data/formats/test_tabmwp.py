"""The TabMWP adapter on the real files, and on small folders that are damaged."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from ovt_ray.core.config.data import DataConfig
from ovt_ray.core.errors import DataError
from ovt_ray.core.types import AnswerKind
from ovt_ray.data.sources import LoadedProblems, load_problems
from ovt_ray.data.store import problem_set
from ovt_ray.data.table import ProblemSet
from reward.verifier.equivalence import is_equivalent


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("problems")


@pytest.fixture(scope="module")
def loaded(shared: Path, kept: Path) -> LoadedProblems:
    return load_problems(DataConfig(format="tabmwp", path=shared / "tabmwp"), kept)


@pytest.fixture(scope="module")
def dev1k(shared: Path, kept: Path) -> ProblemSet:
    return problem_set("tabmwp", shared / "tabmwp", "train", kept)


def read_split(shared: Path, split: str) -> dict[str, dict[str, object]]:
    return json.loads((shared / f"tabmwp/data/tabmwp/problems_{split}.json").read_text())


def test_every_problem_of_dev1k_loads_and_three_are_about_a_table_of_test1k(
    shared: Path, loaded: LoadedProblems, dev1k: ProblemSet
) -> None:
    assert [problem.id for problem in dev1k] == list(read_split(shared, "dev1k"))
    assert (len(dev1k), dev1k.bad) == (1000, ())
    assert len(loaded.train) == 997
    missing, shown = loaded.dropped
    assert "3 problems are about an image of a held-out problem" in shown
    assert missing.endswith("problems_test1k.json: 700 of 1000 problems, whose images are not there")


def test_the_first_300_of_test1k_are_held_out(shared: Path, loaded: LoadedProblems) -> None:
    assert [problem.id for problem in loaded.held_out] == list(read_split(shared, "test1k"))[:300]
    assert {problem.id for problem in loaded.train}.isdisjoint(problem.id for problem in loaded.held_out)


def test_kinds_are_counted_as_the_data_set_counts_its_answer_types(shared: Path, dev1k: ProblemSet) -> None:
    types = Counter(
        "number" if row["ques_type"] == "free_text" else "yesno" if row["answer"] in ("yes", "no") else "choice"
        for row in read_split(shared, "dev1k").values()
    )
    assert Counter(problem.kind.value for problem in dev1k) == types
    numbers = sum(row["ans_type"] in ("integer_number", "decimal_number") for row in read_split(shared, "dev1k").values())
    assert types["number"] == numbers == 725


def test_answers_and_choices_are_those_of_the_rows(shared: Path, dev1k: ProblemSet) -> None:
    rows = read_split(shared, "dev1k")
    for problem in dev1k:
        assert problem.answer == rows[problem.id]["answer"]
        if problem.kind is AnswerKind.CHOICE:
            assert list(problem.choices) == rows[problem.id]["choices"]


def test_the_verifier_accepts_every_gold_answer_as_its_own(loaded: LoadedProblems) -> None:
    assert [problem.id for problem in [*loaded.train, *loaded.held_out] if not is_equivalent(problem.answer, problem)] == []


def test_a_unit_is_named_in_the_question_and_not_in_the_answer(loaded: LoadedProblems) -> None:
    problem = next(problem for problem in loaded.train if problem.id == "117")
    assert problem.question.endswith("What is the weight of the lightest child? (Unit: pounds)")
    assert problem.answer == "10"


def test_damaged_rows_and_images_are_named_with_their_problem(shared: Path, tmp_path: Path) -> None:
    rows = dict(list(read_split(shared, "dev1k").items())[:5])
    cut, gone, empty, short, good = rows
    other = list(read_split(shared, "test1k"))[0]
    rows[empty]["answer"] = ""
    del rows[short]["question"]
    tables = tmp_path / "tables"
    tables.mkdir()
    for pid in (cut, empty, short, good):
        shutil.copyfile(shared / f"tabmwp/data/tabmwp/tables/{pid}.png", tables / f"{pid}.png")
    shutil.copyfile(shared / f"tabmwp/data/tabmwp/tables/{other}.png", tables / f"{other}.png")
    whole = (tables / f"{cut}.png").read_bytes()
    (tables / f"{cut}.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "problems_dev1k.json").write_text(json.dumps(rows))
    (tmp_path / "problems_test1k.json").write_text(json.dumps({other: read_split(shared, "test1k")[other]}))

    loaded = load_problems(DataConfig(format="tabmwp", path=tmp_path, bad_rows="drop"), tmp_path / "kept")
    assert [problem.id for problem in loaded.train] == [good]
    fragments = [(cut, "not a readable"), (gone, "no such file"), (empty, "answer: must not be empty"), (short, "question: missing")]
    for message, (pid, fragment) in zip(loaded.dropped, fragments, strict=True):
        assert f"problems_dev1k.json problem {pid!r}: " in message
        assert fragment in message
    with pytest.raises(DataError, match="4 rows cannot be used"):
        load_problems(DataConfig(format="tabmwp", path=tmp_path), tmp_path / "kept")


def test_the_whole_training_split_is_learnt_from_where_it_is_there(shared: Path, tmp_path: Path) -> None:
    first, second = list(read_split(shared, "dev1k").items())[:2]
    (tmp_path / "tables").mkdir()
    for pid, _ in (first, second):
        shutil.copyfile(shared / f"tabmwp/data/tabmwp/tables/{pid}.png", tmp_path / f"tables/{pid}.png")
    (tmp_path / "problems_dev1k.json").write_text(json.dumps(dict([second])))
    (tmp_path / "problems_train.json").write_text(json.dumps(dict([first])))
    assert [problem.id for problem in problem_set("tabmwp", tmp_path, "train", tmp_path / "kept")] == [first[0]]


def test_a_folder_without_the_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"problems_dev1k.json: cannot be read .*data.path"):
        load_problems(DataConfig(format="tabmwp", path=tmp_path), tmp_path / "kept")


@pytest.mark.parametrize("split", ["dev1k", "test1k"])
def test_answers_units_and_solutions_are_as_the_data_set_says_of_itself(
    shared: Path, loaded: LoadedProblems, dev1k: ProblemSet, split: str
) -> None:
    rows = read_split(shared, split)
    problems = dev1k if split == "dev1k" else loaded.held_out
    asked = [rows[problem.id] for problem in problems]
    kinds = Counter((row["ques_type"], row["ans_type"]) for row in asked)
    assert len(rows) == 1000
    if split == "dev1k":
        assert kinds == {
            ("free_text", "integer_number"): 576,
            ("free_text", "decimal_number"): 149,
            ("multi_choice", "extractive_text"): 151,
            ("multi_choice", "boolean_text"): 112,
            ("multi_choice", "other_text"): 12,
        }
        assert Counter(row["unit"] for row in asked)["$"] == 217
    for problem, row in zip(problems, asked, strict=True):
        is_number = row["ans_type"] in ("integer_number", "decimal_number")
        assert (problem.kind is AnswerKind.NUMBER) is is_number
        assert problem.question.endswith(f"(Unit: {row['unit']})") is (row["unit"] is not None)
        assert problem.solution == row["solution"]
        if is_number:
            value = float(problem.answer.replace(",", "").split("/")[0])
            assert ("." in problem.answer or "/" in problem.answer or not value.is_integer()) is (row["ans_type"] == "decimal_number")
