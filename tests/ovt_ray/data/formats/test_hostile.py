"""Files that are damaged or made to do harm: a format raises DataError, or makes problems of what is whole, and nothing else."""

import copy
import json
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from ovt_ray.core.config.formats import FORMATS
from ovt_ray.core.errors import DataError
from tests.ovt_ray.data.formats.published import picture, png, read, write_json

VALUES = [
    None,
    True,
    -1,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\0",
    "\ud800",
    "../../../etc/passwd",
    "/etc/passwd",
    "x" * 5000,
    "B",
    [],
    [[]],
    {},
    {"bytes": "x", "path": None},
    [{"role": "user"}, 3],
]
IMAGE = "a.png"
ROWS: dict[str, tuple[str, object]] = {
    "jsonl": ("rows.jsonl", {"id": "1", "question": "q", "answer": "4", "images": [IMAGE]}),
    "easyr1": ("rows.json", [{"problem": "q", "answer": "4", "images": [IMAGE]}]),
    "verl": ("rows.json", [{"prompt": [{"role": "user", "content": "q"}], "reward_model": {"ground_truth": "4"}, "images": [IMAGE]}]),
    "llama_factory": (
        "rows.json",
        [
            {
                "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>s</think><answer>4</answer>"}],
                "images": [IMAGE],
            }
        ],
    ),
    "mmmu": ("rows.json", [{"question": "q", "options": ["x", "y"], "answer": "B", "image_1": IMAGE}]),
    "ai2d": (
        "questions/a.png.json",
        {"imageName": "a.png", "questions": {"q": {"abcLabel": False, "answerTexts": ["x"], "correctAnswer": 0, "questionId": "1"}}},
    ),
    "clevr": (
        "questions/CLEVR_train_questions.json",
        {"questions": [{"image_filename": IMAGE, "question": "q", "question_index": 0, "answer": "4"}]},
    ),
    "figureqa": ("train1/qa_pairs.json", {"qa_pairs": [{"question_string": "q", "answer": 1, "image_index": 0}]}),
    "geometry3k": (
        "train/1/data.json",
        {
            "id": 1,
            "annotat_text": "q",
            "problem_text": "q",
            "choices": ["x", "y"],
            "compact_choices": ["x", "y"],
            "answer": "B",
            "data_type": "train",
        },
    ),
    "geos": ("1/question.json", {"key": 1, "text": "q", "choices": {"1": "x", "2": "y"}, "answer": 2.0}),
    "iconqa": ("problems.json", {"1": {"question": "q", "ques_type": "choose_txt", "choices": ["x", "y"], "answer": 1, "split": "train"}}),
    "mapqa": ("questions/train-QA.json", [{"map_id": IMAGE, "question": "q", "question_id": 0, "answer": ["x", "y"]}]),
    "scienceqa": (
        "problems.json",
        {
            "1": {
                "question": "q",
                "choices": ["x", "y"],
                "answer": 1,
                "hint": "h",
                "image": "image.png",
                "split": "train",
                "lecture": "l",
                "solution": "s",
            }
        },
    ),
    "super_clevr": (
        "superCLEVR_questions.json",
        {"questions": [{"image_index": 0, "image_filename": IMAGE, "question": "q", "question_index": 0, "answer": 4}]},
    ),
    "tabmwp": (
        "problems_dev1k.json",
        {"1": {"question": "q", "answer": "4", "choices": None, "unit": "m", "solution": "s"}},
    ),
    "vizwiz": ("Annotations/train.json", [{"image": IMAGE, "question": "q", "answers": [{"answer": "x"}]}]),
    "hallusionbench": (
        "HallusionBench.json",
        [
            {
                "category": "VD",
                "subcategory": "x",
                "set_id": "0",
                "figure_id": "0",
                "question_id": "0",
                "visual_input": "1",
                "question": "q",
                "gt_answer": "1",
                "filename": IMAGE,
            }
        ],
    ),
    "mathvision": ("data/test.jsonl", {"id": "1", "question": "q", "options": ["x", "y"], "answer": "B", "image": IMAGE}),
    "mathvista": (
        "testmini.json",
        {
            "1": {
                "pid": "1",
                "question": "q",
                "image": IMAGE,
                "choices": None,
                "unit": "m",
                "precision": 1.0,
                "answer": "1.2",
                "answer_type": "float",
            }
        },
    ),
}
"""A whole file of each format: name and content. Every format but the tables of bytes is here."""
IMAGES = (
    IMAGE,
    "images/a.png",
    "images/train/a.png",
    "train1/png/0.png",
    "train/1/img_diagram.png",
    "1/diagram.png",
    "train/a.png",
    "tables/1.png",
)
IMAGES_BY_ID = ("iconqa/train/choose_txt/1/image.png", "images/train/1/image.png")
ONE_FILE = ("easyr1", "verl", "llama_factory", "mmmu", "jsonl")
EVAL_ONLY = ("hallusionbench", "mathvision", "mathvista", "mmmu")


def folder_of(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    for name in (*IMAGES, *IMAGES_BY_ID):
        picture(folder / name)
    (folder / "ai2d_test_ids.csv").write_text("9999\n")
    return folder


def attempt(name: str, folder: Path) -> tuple[int, list[str]]:
    """Number of problems and messages; a DataError about the whole is a message."""
    path = folder / ROWS[name][0] if name in ONE_FILE else folder
    try:
        problems, messages = read(name, path, "eval" if name in EVAL_ONLY else "train")
    except DataError as error:
        return 0, [str(error)]
    for problem in problems:
        for image in problem.images:
            assert isinstance(image, bytes) or Path(image).is_relative_to(folder), problem
    return len(problems), messages


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Where a value stands inside a JSON value, the whole first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


def replaced(content: object, place: tuple, value: object) -> object:
    if not place:
        return value
    content = copy.deepcopy(content)
    *way, last = place
    part = content
    for key in way:
        part = part[key]
    part[last] = value
    return content


def test_every_format_is_here() -> None:
    assert set(FORMATS) == {*ROWS, "parquet", "hub"}


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_value_of_another_kind_anywhere_in_a_row_is_refused_or_read_and_never_crashes(name: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    file, content = ROWS[name]
    write_json(folder / file, content)
    assert attempt(name, folder) == (1, [])
    for place in places(content):
        for value in VALUES:
            (folder / file).write_text(json.dumps(replaced(content, place, value)))
            num, messages = attempt(name, folder)
            assert all(message.strip() for message in messages), (place, value)
            assert num + len(messages) <= 2
            assert all(message.encode() for message in messages)  # can be printed


@pytest.mark.parametrize("name", ["iconqa", "scienceqa", "tabmwp", "mathvista"])
@pytest.mark.parametrize("key", ["../../../../1", "\0", "\ud800", "x" * 5000, ""])
def test_an_id_that_is_part_of_a_path_leads_nowhere_else(name: str, key: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    for outside in (tmp_path / "1.png", tmp_path / "1/image.png"):
        picture(outside)
    file, content = ROWS[name]
    write_json(folder / file, {key: content["1"]})
    num, messages = attempt(name, folder)
    assert num == (name == "mathvista")  # whose images have paths of their own
    assert all(message.encode() for message in messages)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_damaged_file_is_refused_or_read_and_never_crashes(name: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    file, content = ROWS[name]
    whole = json.dumps(content).encode()
    write_json(folder / file, content)
    draw = random.Random(0)
    damaged = [whole[: draw.randrange(len(whole))] for _ in range(20)]
    for _ in range(60):
        place = draw.randrange(len(whole))
        damaged.append(whole[:place] + draw.choice([b"\xff", b"\0", b'"', b"[", b"}", b"9" * 5000, b"NaN", b"{"]) + whole[place + 1 :])
    damaged += [b"", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"null", b"3", b'"x"', b"[[]]", b'{"questions": {}}']
    for bytes_ in damaged:
        (folder / file).write_bytes(bytes_)
        attempt(name, folder)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_files_that_are_missing_or_folders_are_named(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    num, messages = attempt(name, folder)
    assert num == 0
    assert str(folder) in messages[0]
    (folder / ROWS[name][0]).mkdir(parents=True)
    num, messages = attempt(name, folder)
    assert num == 0
    assert str(folder) in messages[0]


@pytest.mark.parametrize("name", ["easyr1", "verl", "mmmu", "parquet", "llama_factory"])
def test_damaged_parquet_is_refused_or_read_and_never_crashes(name: str, tmp_path: Path) -> None:
    row = {
        "id": "1",
        "problem": "q",
        "question": "q",
        "answer": "4",
        "images": [{"bytes": png("red"), "path": None}],
        "prompt": [{"role": "user", "content": "q"}],
        "reward_model": {"ground_truth": "4"},
        "instruction": "q",
        "output": "<think>s</think><answer>4</answer>",
    }
    row = {key: row[key] for key in ("id", "question", "answer", "images")} if name == "parquet" else row
    whole, broken = tmp_path / "whole.parquet", tmp_path / "broken.parquet"
    parquet.write_table(pa.Table.from_pylist([row]), whole)
    split = "eval" if name in EVAL_ONLY else "train"
    problems, messages = read(name, whole, split)
    assert (len(problems), messages) == (1, [])
    content = whole.read_bytes()
    draw = random.Random(0)
    for _ in range(60):
        place = draw.randrange(len(content))
        broken.write_bytes(content[:place] + bytes([draw.randrange(256)]) + content[place + 1 :])
        try:
            read(name, broken, split)
        except DataError as error:
            assert str(broken) in str(error)
    shutil.copyfile(__file__, broken)
    with pytest.raises(DataError, match=r"broken.parquet: cannot be read as Parquet"):
        read(name, broken, split)
