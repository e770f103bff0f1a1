"""`ovt-ray data`: what it says of a small data set, worked by hand, and what it draws."""

import json
from pathlib import Path

import pytest
from PIL import Image

from ovt_ray.cli import main
from ovt_ray.report.contact_sheet import CELL
from tests.ovt_ray.data.row_files import encoded, row, write_rows


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six problems about a red, a blue, a green and no image, two of them one with two answers, one about the held-out problem's white one;
    two bad rows."""
    (tmp_path / "blue.png").write_bytes(encoded("blue", (80, 60)))
    (tmp_path / "green.png").write_bytes(encoded("green", (400, 300)))
    (tmp_path / "white.png").write_bytes(encoded("white"))
    (tmp_path / "held_out.jsonl").write_text(json.dumps(row(id="e", images=["white.png"], question="Another?")))
    return write_rows(
        tmp_path,
        row(source="s", answer="yes"),
        row(id="q2", images=["blue.png"], source="s"),
        row(id="q3", images=["blue.png"], answer="5"),
        row(id="q4", images=["blue.png", "green.png"], answer="b", choices=["a", "b"]),
        row(id="q5", images=[]),
        row(id="bad", answer=""),
        row(),
        row(id="q6", images=["white.png"]),
    )


def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, source: Path, *arguments: str) -> str:
    """What the command says, run beside the data."""
    monkeypatch.chdir(source.parent)
    assert main(["data", *arguments]) == 0
    return capsys.readouterr().out


def test_a_data_set_is_counted_and_what_is_left_out_of_it_explained(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = said(capsys, monkeypatch, source, "rows.jsonl", "data.eval_path=held_out.jsonl", "--format", "jsonl", "--examples", "5")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in (
        "rows.jsonl: 5 problems to learn from, 1 held out",
        "held out: at most 400 (data.num_eval), the first of held_out.jsonl (data.eval_path)",
        "(none) 3 1",
        "s 2 0",
        "choice 1 0",
        "number 3 1",
        "0 4 1",  # choices
        "2 1 0",  # choices and images
        "same question and images: 1 problems, 1 with another answer",
        "images both learnt from and held out: 0 of 1",
        "left out: 3",
        "a run does not start with rows that cannot be used, unless data.bad_rows=drop",
    ):
        assert line in lines, f"{line!r} is not in\n{text}"
    assert "rows.jsonl row 2 (id 'q2'): '4'; rows.jsonl row 3 (id 'q3'): '5'" in text
    assert "row 6 (id 'bad'): answer: must not be empty" in text and "row 7 (id 'q1'): id: 'q1' is also the id of" in text
    assert any(line.startswith("width 40 ") and line.endswith(" 400") for line in lines)


def test_the_contact_sheet_shows_each_example(source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    said(
        capsys,
        monkeypatch,
        source,
        "rows.jsonl",
        "data.eval_path=held_out.jsonl",
        "--format",
        "jsonl",
        "--examples",
        "5",
        "--sheet",
        "out.png",
    )
    with Image.open(source.parent / "out.png") as sheet:
        assert sheet.size == (4 * CELL[0], 2 * CELL[1])
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(2**24) or []}
        assert (0, 0, 255) in colours and (0, 128, 0) in colours


def test_the_schema_is_of_the_rows_that_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["required"] == ["id", "question", "answer"] and schema["additionalProperties"] is False
    assert [name for name, field in schema["properties"].items() if "description" not in field] == []


def test_one_problem_of_very_many_images_is_held_out_and_drawn_with_the_first_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_rows(tmp_path, row(images=["a.png"] * 301))
    text = said(capsys, monkeypatch, source, "rows.jsonl", "--format", "jsonl")
    assert "0 problems to learn from, 1 held out\nheld out: all 1, as there are fewer than data.num_eval=400; lower it" in text
    text = said(capsys, monkeypatch, source, "rows.jsonl", "data.num_eval=1", "--format", "jsonl")
    assert "held out: 1 chosen by a hash" in text and "\n  301 " in text
    assert (tmp_path / "contact_sheet.png").is_file()


@pytest.mark.parametrize("rows", [[], [row(answer="")]])
def test_a_file_without_a_problem_is_named_after_what_is_left_out(
    rows: list[dict[str, object]], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path, *rows)
    monkeypatch.chdir(tmp_path)
    assert main(["data", "rows.jsonl", "--format", "jsonl"]) == 1
    out, err = capsys.readouterr()
    assert f"left out: {len(rows)}" in out
    assert "rows.jsonl: no row of it makes a problem" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rows.jsonl", "data.num_eval=[1", "--format", "jsonl"], "override 'data.num_eval=[1': the value is not YAML"),
        ([], "IN is missing"),
        (["rows.jsonl"], "say what it is with --format, one of jsonl"),
        (["rows.jsonl", "seed=1", "--format", "jsonl"], "override 'seed=1': only keys of data"),
        (["rows.jsonl", "data.num_evl=1", "--format", "jsonl"], "data.num_evl: unknown key; did you mean 'num_eval'?"),
        (["rows.jsonl", "--format", "json"], "format 'json' is unknown; did you mean 'jsonl'?"),
        (["rows.jsonl", "--format", "jsonl", "--examples", "0"], "--examples: must be at least 1, got 0"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", *arguments]) == 1
    assert message in capsys.readouterr().err
