"""Problems are checked once: what a later start maps, and what makes it read again."""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from ovt_ray.core.config.data import DataConfig
from ovt_ray.core.errors import DataError
from ovt_ray.data.formats import Row, format_rows
from ovt_ray.data.sources import load_problems
from ovt_ray.data.store import _states, keep, problem_set
from tests.ovt_ray.data.row_files import encoded, row, write_rows


def counted(path: Path, made: list[str]) -> Iterator[Row]:
    """The rows of a file, whose places are noted as they are read."""
    for place, make in format_rows("jsonl", path, "train"):
        made.append(place)
        yield place, make


def test_a_second_start_finds_the_same_problems_and_the_same_bad_rows(tmp_path: Path) -> None:
    path = write_rows(tmp_path, row(precision=2, unit="cm", choices=[]), row(id="bad", answer=""), row(id="q3", images=[]))
    first = problem_set("jsonl", path, "train", tmp_path / "kept")
    inode = (kept_file(tmp_path)).stat().st_ino
    second = problem_set("jsonl", path, "train", tmp_path / "kept")
    assert kept_file(tmp_path).stat().st_ino == inode, "it is not written again"
    assert list(first) == list(second) and [problem.id for problem in second] == ["q1", "q3"]
    assert first.bad == second.bad and "answer: must not be empty" in second.bad[0].message
    for _ in range(2):
        with pytest.raises(DataError, match="1 row cannot be used"):
            load_problems(DataConfig(format="jsonl", path=path, num_eval=1), tmp_path / "kept")


def kept_file(folder: Path) -> Path:
    (path,) = (folder / "kept").glob("*/problems.arrow")
    return path


def test_another_file_or_another_image_is_read_again(tmp_path: Path) -> None:
    path = write_rows(tmp_path, row(), row(id="q2", images=["b.png"]))
    assert len(problem_set("jsonl", path, "train", tmp_path / "kept")) == 1
    (tmp_path / "b.png").write_bytes(encoded("blue"))
    assert len(problem_set("jsonl", path, "train", tmp_path / "kept")) == 2, "the image that was missing is there"
    (tmp_path / "a.png").write_text("overwritten")
    (message,) = [bad.message for bad in problem_set("jsonl", path, "train", tmp_path / "kept").bad]
    assert "row 1 (id 'q1'): images[0]: " in message and "not a readable" in message
    path.write_text(json.dumps(row(images=["b.png"], answer="5")))
    assert [problem.answer for problem in problem_set("jsonl", path, "train", tmp_path / "kept")] == ["5"]


def test_a_file_in_a_linked_folder_that_changes_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "real" / "inner" / "back").symlink_to(tmp_path / "real")  # a loop
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "questions").symlink_to(tmp_path / "real")
    before = list(_states(tmp_path / "set"))
    (tmp_path / "real" / "inner" / "1.json").write_text("{}")
    written = list(_states(tmp_path / "set"))
    (tmp_path / "real" / "inner" / "1.json").write_text("{} ")
    assert (len(before), len(written)) == (0, 1) and list(_states(tmp_path / "set")) != written


def test_rows_are_read_again_when_the_description_of_their_columns_changes(tmp_path: Path) -> None:
    answered = {"instruction": "How many?", "output": "<think> . </think> <answer> 4 </answer>", "other": "How old?"}
    (tmp_path / "rows.json").write_text(json.dumps([answered]))
    asked = []
    for columns in (None, {"prompt": "other"}):
        if columns:
            (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.json", "columns": columns}}))
        asked += [problem.question for problem in problem_set("llama_factory", tmp_path / "rows.json", "train", tmp_path / "kept")]
    assert asked == ["How many?", "How old?"]


def test_a_reader_that_stops_leaves_nothing_that_a_later_start_would_take_for_whole(tmp_path: Path) -> None:
    def torn() -> Iterator[Row]:
        yield from counted(write_rows(tmp_path, row()), [])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep(torn(), "torn", tmp_path / "kept" / "key")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["images"]


def test_a_file_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    path = write_rows(tmp_path, row())
    first = list(problem_set("jsonl", path, "train", tmp_path / "kept"))
    os.truncate(kept_file(tmp_path), 100)
    assert list(problem_set("jsonl", path, "train", tmp_path / "kept")) == first


def test_an_image_in_bytes_is_stored_once_by_its_content(tmp_path: Path) -> None:
    picture = encoded("blue")
    table = pa.Table.from_pylist(
        [
            {"id": str(number), "question": "?", "images": images, "answer": "4", "choices": None}
            for number, images in enumerate([[{"bytes": picture, "path": None}], [{"bytes": picture, "path": "x.png"}], [], None])
        ]
        + [{"id": "path", "question": "?", "images": [{"bytes": None, "path": "a.png"}], "answer": "4", "choices": None}]
    )
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(encoded("red"))
    parquet.write_table(table, tmp_path / "set" / "part-0.parquet")
    problems = problem_set("parquet", tmp_path / "set", "train", tmp_path / "kept")
    assert problems.bad == ()
    (stored,) = (tmp_path / "kept" / "images").iterdir()
    assert stored.read_bytes() == picture
    assert [problem.images for problem in problems] == [(str(stored),), (str(stored),), (), (), (str(tmp_path / "set" / "a.png"),)]
    assert problems.column("image_widths") == [[40], [40], [], [], [40]]
    os.truncate(stored, 10)
    assert [problem.id for problem in problem_set("parquet", tmp_path / "set", "train", tmp_path / "kept")][:2] == ["0", "1"]
    assert stored.read_bytes() == picture, "a damaged copy is written again"


def test_a_column_of_bytes_and_a_damaged_file_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"id": [1], "question": ["?"], "images": [[encoded("red")]], "answer": [4.5]}), path)
    (problem,) = problem_set("parquet", path, "train", tmp_path / "kept")
    assert (problem.id, problem.answer, len(problem.images)) == ("1", "4.5", 1)
    far = pa.table({"id": ["1"], "question": ["?"], "answer": pa.array([2**60], pa.timestamp("ms"))})
    parquet.write_table(far, path)  # a time that Python has no value for
    with pytest.raises(DataError, match="rows.parquet: cannot be read as Parquet"):
        problem_set("parquet", path, "train", tmp_path / "kept")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="rows.parquet: cannot be read as Parquet"):
        problem_set("parquet", path, "train", tmp_path / "kept")
    with pytest.raises(DataError, match="a folder without"):
        problem_set("parquet", tmp_path / "kept", "train", tmp_path / "kept")


def test_views_are_made_of_places_and_columns_follow_them(tmp_path: Path) -> None:
    path = write_rows(tmp_path, *[row(id=f"q{number}", source=f"s{number % 2}") for number in range(6)])
    problems = problem_set("jsonl", path, "train", tmp_path / "kept")
    view = problems.select([5, 0, 3])[1:]
    assert [problem.id for problem in view] == ["q0", "q3"] == view.column("id")
    assert view.column("source") == ["s0", "s1"] and view[-1].id == "q3"
    with pytest.raises(IndexError):
        view[2]


def test_rows_come_out_in_their_order_however_long_an_image_takes(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    from PIL import Image

    Image.effect_noise((1500, 1500), 50).save(buffer, "PNG")
    (tmp_path / "slow.png").write_bytes(buffer.getvalue())
    path = write_rows(tmp_path, *[row(id=f"q{number}", images=["a.png" if number % 7 else "slow.png"]) for number in range(40)])
    assert problem_set("jsonl", path, "train", tmp_path / "kept").column("id") == [f"q{number}" for number in range(40)]
