"""Problems from JSON lines: what is read, what is refused and how it is named."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ovt_ray.core.config.data import DataConfig
from ovt_ray.core.errors import DataError
from ovt_ray.core.files import write_json_lines_atomically
from ovt_ray.core.types import AnswerKind, Problem
from ovt_ray.data.formats import format_rows
from ovt_ray.data.rows import problem_row
from ovt_ray.data.sources import LoadedProblems, load_problems
from ovt_ray.data.store import keep
from reward.verifier.equivalence import is_equivalent
from tests.ovt_ray.data.row_files import encoded, png_header_of, row, write_rows


def noisy_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((80, 80), 50).save(buffer, "JPEG")
    return buffer.getvalue()


def read_problems(path: Path) -> tuple[list[Problem], list[str]]:
    """The problems of a file, read anew, and the messages of its bad rows."""
    problems = keep(format_rows("jsonl", path, "train"), str(path), path.parent / "kept" / "key")
    return list(problems), [row.message for row in problems.bad]


def load(folder: Path, path: Path, **options: object) -> LoadedProblems:
    return load_problems(DataConfig(format="jsonl", path=path, **options), folder / "kept")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"answer": "4"}, AnswerKind.NUMBER),
        ({"answer": "-1,204.50"}, AnswerKind.NUMBER),
        ({"answer": "37/164"}, AnswerKind.NUMBER),
        ({"answer": "$3"}, AnswerKind.NUMBER),
        ({"answer": 6}, AnswerKind.NUMBER),
        ({"answer": "Yes"}, AnswerKind.YESNO),
        ({"answer": "4:30 P.M."}, AnswerKind.TEXT),
        ({"answer": "1,2,3"}, AnswerKind.LATEX),
        ({"answer": "1/0"}, AnswerKind.LATEX),
        ({"answer": "9" * 101}, AnswerKind.TEXT),
        ({"answer": "no", "choices": ["yes", "no"]}, AnswerKind.CHOICE),
        ({"answer": "4", "kind": "text"}, AnswerKind.TEXT),
    ],
)
def test_the_kind_of_an_answer_follows_from_the_row(tmp_path: Path, fields: dict[str, object], kind: AnswerKind) -> None:
    (problem,), bad = read_problems(write_rows(tmp_path, row(**fields)))
    assert (problem.kind, bad) == (kind, [])
    assert problem.answer == str(fields["answer"])
    assert is_equivalent(problem.answer, problem)  # the verifier can read what the row's rules let pass


def test_images_are_paths_beside_the_file_or_base64(tmp_path: Path) -> None:
    picture = encoded("blue", form="JPEG")
    (problem,), _ = read_problems(write_rows(tmp_path, row(images=["a.png", {"base64": base64.b64encode(picture).decode()}])))
    assert problem.images[0] == str(tmp_path / "a.png")
    assert Path(problem.images[1]).read_bytes() == picture


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (row(answer=""), "(id 'q1'): answer: must not be empty, got ''"),
        (row(answer="  "), "answer: must not be empty, got '  '"),
        ({"id": "q1", "question": "How many?", "images": []}, "(id 'q1'): answer: missing"),
        (row(answer=True), "answer: Input should be a valid string, got True"),
        (row(question=""), "question: must not be empty"),
        (row(image="a.png"), "image: unknown field; did you mean 'images'?"),
        (row(kind="integer"), "kind: Input should be 'number', 'text', 'yesno', 'choice', 'latex' or 'list', got 'integer'"),
        (row(answer="green", choices=["red", "blue"]), "answer: 'green' is not one of the choices ['red', 'blue']"),
        (row(choices=[str(number) for number in range(27)]), "choices: 27, but there are letters for 26; leave some out"),
        (row(kind="choice"), "choices: missing; kind 'choice' needs them"),
        (row(kind="yesno"), "its gold answer '4' is not one of yes, no, true, false"),
        (row(kind="number", choices=["4", "5"]), "choices: only kind 'choice' has them, got kind 'number'"),
        (row(kind="number", answer="five or six"), "its gold answer 'five or six' is not a number; use kind 'text' or 'latex'"),
        (row(answer="x" * 1001), "answer: String should have at most 1000 characters"),
        (row(images=["absent.png"]), "absent.png': no such file"),
        (row(images=["torn.png"]), "torn.png': not a readable"),
        (row(images=["torn.jpg"]), "torn.jpg': not a readable"),
        (row(images=["flipped.png"]), "flipped.png': not a readable"),
        (row(images=["text.png"]), "text.png': not a readable"),
        (row(images=["large.png"]), "large.png': 9000 x 9000 pixels, more than 67,108,864"),
        (row(images=["bomb.png"]), "bomb.png': not a readable"),
        (row(images=["strip.png"]), "strip.png': 402 x 2 pixels, sides in a ratio above 200"),
        (row(images=["a.png", {"base64": "AAAA"}]), "images[1]: an image of 3 bytes: not a readable"),
        (row(images=[{"base64": "%%%"}]), "images.0: "),
        (row(images=[7]), 'images.0: Value error, must be a path, {"base64": "..."}, bytes, or'),
        (row(images=["https://host/a.png"]), "images[0]: 'https://host/a.png': on the host 'host', and images are fetched from those in"),
        (row(images=["ftp://host/a.png"]), "must be on this machine or at an http(s) address: store it and give its path, got 'ftp://"),
        ("{broken", "row 2: not JSON"),
        ("[" * 100_000, "row 2: not JSON"),
        ("[1, 2]", "row 2: row: Input should be a valid dictionary"),
    ],
)
def test_a_bad_row_is_named_with_its_number_field_value_and_rule(tmp_path: Path, bad: dict[str, object] | str, expected: str) -> None:
    whole, jpeg = encoded("red", (300, 300)), noisy_jpeg()
    (tmp_path / "torn.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "torn.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (tmp_path / "flipped.png").write_bytes(whole[:60] + bytes([whole[60] ^ 255]) + whole[61:])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "large.png").write_bytes(png_header_of(9_000, 9_000))
    (tmp_path / "bomb.png").write_bytes(png_header_of(60_000, 60_000))
    (tmp_path / "strip.png").write_bytes(encoded("red", (402, 2)))
    problems, messages = read_problems(write_rows(tmp_path, row(id="good"), bad))
    assert [problem.id for problem in problems] == ["good"]
    (message,) = messages
    assert message.startswith(f"{tmp_path / 'rows.jsonl'} row 2")
    assert expected in message


def test_a_repeated_id_is_named_with_both_rows(tmp_path: Path) -> None:
    problems, (message,) = read_problems(write_rows(tmp_path, row(), row(id="q2"), row(answer="5")))
    assert [problem.id for problem in problems] == ["q1", "q2"]
    assert "row 3 (id 'q1'): id: 'q1' is also the id of" in message
    assert "rows.jsonl row 1" in message


def test_refusing_lists_the_first_twenty_bad_rows_and_dropping_all(tmp_path: Path) -> None:
    good = [row(id=f"good{n}", images=[]) for n in range(4)]
    path = write_rows(tmp_path, *good, *[row(id=f"bad{n}", answer="") for n in range(23)])
    with pytest.raises(DataError) as refusal:
        load(tmp_path, path, num_eval=1)
    lines = str(refusal.value).splitlines()
    assert "23 rows cannot be used" in lines[0]
    assert "data.bad_rows=drop" in lines[0]
    assert len(lines) == 1 + 20 + 1
    assert lines[-1] == "... and 3 more"
    loaded = load(tmp_path, path, num_eval=1, bad_rows="drop")
    assert (len(loaded.train), len(loaded.held_out), len(loaded.dropped)) == (3, 1, 23)


def test_no_image_is_both_trained_on_and_held_out(tmp_path: Path) -> None:
    pictures = {colour: base64.b64encode(encoded(colour)).decode() for colour in ("red", "green", "blue", "white")}
    rows = [row(id=f"{colour}{n}", images=[{"base64": data}]) for colour, data in pictures.items() for n in range(3)]
    path = write_rows(tmp_path, *rows)
    loaded = load(tmp_path, path, num_eval=4)
    assert len(loaded.held_out) == 4
    assert {problem.images for problem in loaded.train}.isdisjoint({problem.images for problem in loaded.held_out})
    assert len(loaded.train) == 6  # two images are held out, of which one and a third are asked about
    assert "2 problems are about an image of a held-out problem" in loaded.dropped[0]
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    again = load(tmp_path, path, num_eval=4)
    assert {problem.id for problem in again.held_out} == {problem.id for problem in loaded.held_out}


def test_what_a_file_of_held_out_problems_is_about_is_not_learnt_from(tmp_path: Path) -> None:
    for name, colour in (("b.png", "blue"), ("copy of b.png", "blue"), ("c.png", "green")):
        (tmp_path / name).write_bytes(encoded(colour))
    texts = [row(id="e0", images=[], question="One?"), row(id="q6", images=[], question="Two?")]
    path = write_rows(
        tmp_path, row(), row(id="q2", images=["a.png", "copy of b.png"]), row(id="q3", images=["c.png"]), *texts, row(id="q4")
    )
    held_out = tmp_path / "eval.jsonl"
    asked = [{"images": [], "question": "Two?"}, {"images": ["b.png"]}, {"images": ["c.png"]}]
    held_out.write_text("\n".join(json.dumps(row(id=f"e{n}", **fields)) for n, fields in enumerate(asked)))
    loaded = load(tmp_path, path, eval_path=held_out, num_eval=2)
    assert [problem.id for problem in loaded.train] == ["q1", "e0", "q4"]  # q3 is about one that is not measured this time
    assert [problem.id for problem in loaded.held_out] == ["e0", "e1"]
    learnt, measured = ({digest for found in part.column("image_hashes") for digest in found} for part in (loaded.train, loaded.held_out))
    assert len(learnt) == len(measured) == 1 and learnt.isdisjoint(measured)
    assert "3 problems are about an image of a held-out problem" in loaded.dropped[0]


def test_several_data_sets_are_learnt_from_and_what_is_held_out_of_the_first_is_in_none(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "b.png").write_bytes(encoded("blue" if name == "first" else "red"))
    first = write_rows(tmp_path / "first", row(images=["a.png"], source="a"), row(id="q2", images=["b.png"], source="a"))
    second = write_rows(tmp_path / "second", row(source="b"), row(id="q3", images=[]), row(id="bad", answer=""))
    also = {"also": [{"format": "jsonl", "path": second}], "bad_rows": "drop"}
    loaded = load(tmp_path, first, num_eval=1, **also)
    (held_out,) = loaded.held_out.column("id")
    red = held_out == "q1"  # which image is held out depends on its encoder
    assert [problem.id for problem in loaded.train] == (["q2", "1/q3"] if red else ["q1", "1/q1", "1/q3"])
    assert loaded.train.column("source")[-2:] == (["a", ""] if red else ["b", ""])
    assert len(loaded.dropped) == (2 if red else 1) and "second" in loaded.dropped[0]
    (tmp_path / "e.png").write_bytes(encoded("red"))
    (tmp_path / "eval.jsonl").write_text(json.dumps(row(images=["e.png"])))
    separate = load(tmp_path, first, eval_path=tmp_path / "eval.jsonl", **also)
    assert separate.train.column("id") == ["q2", "1/q3"] == [problem.id for problem in separate.train]
    assert "2 problems are about an image" in separate.dropped[-1]


def test_an_id_that_a_further_data_set_would_repeat_is_refused_with_both_rows(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    first = write_rows(tmp_path, row(), row(id="1/q1"))
    second = write_rows(tmp_path / "second", row(id="q0"), row())
    with pytest.raises(DataError) as refusal:
        load(tmp_path, first, num_eval=1, also=[{"format": "jsonl", "path": second}])
    assert str(refusal.value) == (
        f"data.also: {second} row 2 (id 'q1') gets the id '1/q1', which {first} row 2 (id '1/q1') has: give one of them another id"
    )


def test_holding_out_everything_is_refused_with_the_key_to_change(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data.num_eval"):
        load(tmp_path, write_rows(tmp_path, row()), num_eval=400)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent.jsonl: cannot be read"):
        load(tmp_path, tmp_path / "absent.jsonl")


def test_written_problems_are_read_back_equal_after_their_folder_moved(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded("red"))
    problems = [
        Problem(id="1", question="Wie groß?\u2028", images=(str(folder / "a.png"),), answer="4", kind=AnswerKind.TEXT, source="s"),
        Problem(id="2", question="Which?", images=(encoded("blue"),), answer="b", kind=AnswerKind.CHOICE, choices=("a", "b")),
    ]
    write_json_lines_atomically(folder / "rows.jsonl", [problem_row(problem, folder) for problem in problems])
    folder.rename(tmp_path / "moved")
    read, bad = read_problems(tmp_path / "moved" / "rows.jsonl")
    assert bad == []
    assert replace(read[1], images=()) == replace(problems[1], images=())
    assert Path(read[1].images[0]).read_bytes() == problems[1].images[0]
    assert (read[0].question, read[0].kind, read[0].images) == ("Wie groß?", AnswerKind.TEXT, (str(tmp_path / "moved" / "a.png"),))
