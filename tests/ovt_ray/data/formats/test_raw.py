"""Data sets in their own folders, written as they are published: what becomes of a row, and how a bad one is named."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import AnswerKind, Problem
from reward.verifier.equivalence import is_equivalent
from tests.ovt_ray.data.formats.published import picture, png, read, write_json


def facts(problem: Problem) -> tuple[str, str, AnswerKind, tuple[str, ...]]:
    return problem.id, problem.answer, problem.kind, problem.choices


def names(problem: Problem, folder: Path) -> list[str]:
    return [str(Path(image).relative_to(folder)) for image in problem.images if isinstance(image, str)]


def test_geometry3k_has_a_folder_for_each_split(tmp_path: Path) -> None:
    row = {
        "id": 2401,
        "annotat_text": "",
        "problem_text": "Find x .",
        "choices": ["5", "5 \\sqrt { 2 }"],
        "compact_choices": ["5", "5\\sqrt{2}"],
        "answer": "B",
        "data_type": "test",
    }
    write_json(tmp_path / "train/0/data.json", row | {"id": 0, "annotat_text": "Find $x$.", "compact_choices": []})
    write_json(tmp_path / "train/10/data.json", row | {"id": 10, "answer": "E"})
    write_json(tmp_path / "val/1/data.json", row | {"id": 1})
    write_json(tmp_path / "test/2401/data.json", row)
    for folder in ("train/0", "train/10", "val/1", "test/2401"):
        picture(tmp_path / folder / "img_diagram.png")
    (problem,), (message,) = read("geometry3k", tmp_path)
    assert facts(problem) == ("0", "5 \\sqrt { 2 }", AnswerKind.CHOICE, ("5", "5 \\sqrt { 2 }"))
    assert (problem.question, names(problem, tmp_path)) == ("Find $x$.", ["train/0/img_diagram.png"])
    assert message == f"{tmp_path}/train/10/data.json: answer: 'E' is not the letter of one of 2 choices; correct it"
    (held_out,), _ = read("geometry3k", tmp_path, "eval")
    assert (held_out.id, held_out.question, held_out.answer) == ("2401", "Find x .", "5\\sqrt{2}")
    with pytest.raises(DataError, match=r"no folder in it has a data.json; data.path must hold Geometry3K's train, val and test"):
        read("geometry3k", tmp_path / "train" / "0")


def test_super_clevr_splits_by_the_number_of_the_image(tmp_path: Path) -> None:
    rows = [
        {"image_index": index, "image_filename": "a.png", "question": "Is it?", "question_index": index, "answer": answer}
        for index, answer in ((0, True), (19_999, 3), (20_000, "red"), (24_999, "red"), (25_000, False))
    ]
    write_json(tmp_path / "superCLEVR_questions_30k.json", {"info": {}, "questions": rows})
    picture(tmp_path / "images/a.png")
    train, _ = read("super_clevr", tmp_path)
    held_out, _ = read("super_clevr", tmp_path, "eval")
    name = "superCLEVR_questions_30k"
    assert [facts(problem)[:3] for problem in train] == [
        (f"{name}-0", "yes", AnswerKind.YESNO),
        (f"{name}-19999", "3", AnswerKind.NUMBER),
    ]
    assert [facts(problem)[:3] for problem in held_out] == [(f"{name}-25000", "no", AnswerKind.YESNO)]
    del rows[0]["image_index"]
    write_json(tmp_path / "superCLEVR_questions_30k.json", {"info": {}, "questions": rows})
    for split in ("train", "eval"):
        assert "row 1: image_index: missing" in read("super_clevr", tmp_path, split)[1][0]


def test_clevr_has_questions_and_images_by_split_and_its_test_questions_have_no_answer(tmp_path: Path) -> None:
    def row(split: str, index: int, **changes: object) -> dict[str, object]:
        name = f"CLEVR_{split}_{index:06}.png"
        picture(tmp_path / "images" / split / name)
        return {
            "split": split,
            "image_filename": name,
            "image_index": index,
            "question_index": index,
            "question": "How many cubes?",
        } | changes

    for split, rows in {
        "train": [row("train", 0, answer="2", program=[]), row("train", 1, answer="yes"), row("train", 2, answer="rubber")],
        "val": [row("val", 0, answer="no")],
        "test": [row("test", 0)],
    }.items():
        write_json(tmp_path / f"questions/CLEVR_{split}_questions.json", {"info": {"split": split}, "questions": rows})
    problems, messages = read("clevr", tmp_path)
    assert messages == []
    assert [facts(problem) for problem in problems] == [
        ("CLEVR_train_questions-0", "2", AnswerKind.NUMBER, ()),
        ("CLEVR_train_questions-1", "yes", AnswerKind.YESNO, ()),
        ("CLEVR_train_questions-2", "rubber", AnswerKind.TEXT, ()),
    ]
    assert names(problems[1], tmp_path) == ["images/train/CLEVR_train_000001.png"]
    assert [problem.id for problem in read("clevr", tmp_path, "eval")[0]] == ["CLEVR_val_questions-0"]
    train, test = (tmp_path / f"questions/CLEVR_{split}_questions.json" for split in ("train", "test"))
    assert read("clevr", test, "eval") == ([], [f"{test} row 1: answer: missing"])
    assert read("clevr", train)[0] == problems
    assert read("clevr", train, "eval") == ([], [])  # nothing is learnt from and held out as well


def test_figureqa_answers_yes_or_no(tmp_path: Path) -> None:
    def pair(answer: object) -> dict[str, object]:
        return {"question_string": "Is Lime the minimum?", "question_id": 1, "answer": answer, "color1_name": "Lime", "image_index": 0}

    write_json(tmp_path / "train1/qa_pairs.json", {"qa_pairs": [pair(1), pair(0), pair(2)], "total_distinct_questions": 15})
    write_json(tmp_path / "validation1/qa_pairs.json", {"qa_pairs": [pair(0)]})
    picture(tmp_path / "train1/png/0.png")
    picture(tmp_path / "validation1/png/0.png", "blue")
    problems, (message,) = read("figureqa", tmp_path)
    assert [facts(problem) for problem in problems] == [
        ("train1-1", "yes", AnswerKind.YESNO, ()),
        ("train1-2", "no", AnswerKind.YESNO, ()),
    ]
    assert names(problems[0], tmp_path) == ["train1/png/0.png"]
    assert message == f"{tmp_path}/train1/qa_pairs.json row 3: answer: Input should be 0 or 1, got 2"
    assert [problem.id for problem in read("figureqa", tmp_path, "eval")[0]] == ["validation1-1"]


def test_iconqa_has_three_kinds_of_questions(tmp_path: Path) -> None:
    def problem(ques_type: str, answer: object, *choices: str, split: str = "train") -> dict[str, object]:
        row = {"question": "Which is first?", "ques_type": ques_type, "answer": answer, "split": split, "grade": "grade1"}
        return row | {"choices": list(choices)} if choices else row

    rows = {
        "1": problem("choose_txt", 1, "red", "blue"),
        "2": problem("choose_img", 0, "choice_0.png", "choice_1.png"),
        "3": problem("fill_in_blank", "10"),
        "4": problem("choose_txt", 5, "red", "blue"),
        "5": problem("fill_in_blank", "8", split="val"),
        "6": problem("fill_in_blank", "9", split="test"),
    }
    write_json(tmp_path / "iconqa_data/problems.json", rows)
    for name in ("train/choose_txt/1/image", "train/choose_img/2/image", "train/fill_in_blank/3/image", "test/fill_in_blank/6/image"):
        picture(tmp_path / f"iconqa_data/iconqa/{name}.png")
    for number in (0, 1):
        picture(tmp_path / f"iconqa_data/iconqa/train/choose_img/2/choice_{number}.png", "blue")
    problems, (message,) = read("iconqa", tmp_path)
    assert [facts(problem) for problem in problems] == [
        ("1", "blue", AnswerKind.CHOICE, ("red", "blue")),
        ("2", "image 2", AnswerKind.CHOICE, ("image 2", "image 3")),
        ("3", "10", AnswerKind.NUMBER, ()),
    ]
    assert [Path(name).name for name in names(problems[1], tmp_path)] == ["image.png", "choice_0.png", "choice_1.png"]
    assert message.endswith("problems.json problem '4': answer: 5 is not the place of one of 2 choices, counted from 0; correct it")
    assert [problem.id for problem in read("iconqa", tmp_path / "iconqa_data", "eval")[0]] == ["6"]


def test_mapqa_has_answers_that_are_sets(tmp_path: Path) -> None:
    def row(number: int, answer: object) -> dict[str, object]:
        return {"map_id": "map_0.png", "question_type": "retrieval", "question": "Which ?", "question_id": number, "answer": answer}

    rows = [row(5, ["California", "New York"]), row(6, ["Ohio"]), row(7, "Yes"), row(8, []), row(9, "1,000-2,000")]
    write_json(tmp_path / "questions/train-QA.json", rows)
    write_json(tmp_path / "questions/test-QA.json", [row(5, "Ohio")])
    picture(tmp_path / "images/map_0.png")
    problems, (message,) = read("mapqa", tmp_path)
    assert [facts(problem)[:3] for problem in problems[:3]] == [
        ("train-5", "{California, New York}", AnswerKind.LIST),
        ("train-6", "Ohio", AnswerKind.TEXT),
        ("train-7", "Yes", AnswerKind.YESNO),
    ]
    assert problems[3].answer == "1,000-2,000"
    assert names(problems[0], tmp_path) == ["images/map_0.png"]
    assert message == f"{tmp_path}/questions/train-QA.json row 4: answer: must not be empty, got ''"
    assert [problem.id for problem in read("mapqa", tmp_path, "eval")[0]] == ["test-5"]


def test_a_set_of_mapqa_is_right_in_any_order_and_wrong_if_one_is_missing(tmp_path: Path) -> None:
    row = {"map_id": "map_0.png", "question": "Which ?", "question_id": 1, "answer": ["California", "New York", "Ohio"]}
    write_json(tmp_path / "questions/train-QA.json", [row])
    picture(tmp_path / "images/map_0.png")
    (problem,), _ = read("mapqa", tmp_path)
    assert is_equivalent("Ohio, California, New York", problem)
    assert not is_equivalent("Ohio, California", problem)
    assert not is_equivalent("Ohio, California, Texas", problem)


def test_ai2d_leaves_out_questions_about_letters_and_holds_out_the_listed_images(tmp_path: Path) -> None:
    def about(name: str, **questions: dict[str, object]) -> None:
        write_json(tmp_path / f"questions/{name}.json", {"imageName": name, "questions": questions})
        picture(tmp_path / "images" / name)

    def question(number: int, correct: int = 1, letters: bool = False) -> dict[str, object]:
        return {"abcLabel": letters, "answerTexts": ["moth", "egg"], "correctAnswer": correct, "questionId": f"7.png-{number}"}

    about("7.png", **{"What hatches?": question(0), "What is A?": question(1, letters=True), "And?": question(2, correct=4)})
    about("8.png", **{"What hatches?": question(3)})
    with pytest.raises(DataError, match=r"ai2d_test_ids.csv: cannot be read .*download AI2D's list of test images"):
        read("ai2d", tmp_path)
    (tmp_path / "ai2d_test_ids.csv").write_text("8\n11\n")
    (problem,), messages = read("ai2d", tmp_path)
    assert facts(problem) == ("7.png-0", "egg", AnswerKind.CHOICE, ("moth", "egg"))
    assert (problem.question, names(problem, tmp_path)) == ("What hatches?", ["images/7.png"])
    place = f"{tmp_path}/questions/7.png.json question"
    assert messages == [
        f"{place} 'What is A?': it asks about letters that are not in the picture",
        f"{place} 'And?': answer: 4 is not the place of one of 2 choices, counted from 0; correct it",
    ]
    assert [problem.id for problem in read("ai2d", tmp_path, "eval")[0]] == ["7.png-3"]


def test_vizwiz_takes_the_answer_of_most_and_leaves_out_the_unanswerable(tmp_path: Path) -> None:
    def row(name: str, *answers: str) -> dict[str, object]:
        picture(tmp_path / "train" / name)
        given = [{"answer": answer, "answer_confidence": "yes"} for answer in answers]
        return {"image": name, "question": "What is this?", "answers": given, "answer_type": "other", "answerable": 1}

    rows = [
        row("VizWiz_train_00000000.jpg", *["basil leaves"] * 3, *["basil"] * 4, *["unanswerable"] * 3),
        row("VizWiz_train_00000001.jpg", *["unanswerable"] * 6, *["a pen"] * 4),
        row("VizWiz_train_00000002.jpg"),
        row("VizWiz_train_00000003.jpg", *["no"] * 5, *["yes"] * 5),
    ]
    write_json(tmp_path / "Annotations/train.json", rows)
    write_json(tmp_path / "Annotations/val.json", [{"image": "../train/x.jpg", "question": "?", "answers": [{"answer": "x"}]}])
    problems, messages = read("vizwiz", tmp_path)
    assert [facts(problem)[:3] for problem in problems] == [
        ("VizWiz_train_00000000", "basil", AnswerKind.TEXT),
        ("VizWiz_train_00000003", "no", AnswerKind.YESNO),
    ]
    assert names(problems[0], tmp_path) == ["train/VizWiz_train_00000000.jpg"]
    place = f"{tmp_path}/Annotations/train.json row"
    assert messages == [
        f"{place} 2: answers: 6 of 10 people said 'unanswerable'",
        f"{place} 3: answers: must not be empty, got []",
    ]
    (outside,) = read("vizwiz", tmp_path, "eval")[1]
    assert "val.json row 1: image '../train/x.jpg': must be a file inside the data set's folder" in outside


def test_scienceqa_has_its_hint_in_the_question_and_its_explanation_as_the_solution(tmp_path: Path) -> None:
    def row(**changes: object) -> dict[str, object]:
        values = {"question": "Which is soft?", "choices": ["rock", "wool"], "answer": 1, "hint": "", "image": None, "split": "train"}
        return values | {"lecture": "Soft things bend.", "solution": "Wool bends.", "task": "closed choice", "grade": "grade2"} | changes

    rows = {
        "1": row(image="image.png", hint="Select one."),
        "2": row(),
        "3": row(answer=-1),
        "4": row(split="val"),
        "5": row(split="test"),
    }
    write_json(tmp_path / "data/scienceqa/problems.json", rows)
    picture(tmp_path / "data/scienceqa/images/train/1/image.png")
    (first, second), (message,) = read("scienceqa", tmp_path)
    assert facts(first) == ("1", "wool", AnswerKind.CHOICE, ("rock", "wool"))
    assert (first.question, first.solution) == ("Select one.\nWhich is soft?", "Soft things bend.\nWool bends.")
    assert names(first, tmp_path) == ["data/scienceqa/images/train/1/image.png"]
    assert (second.question, second.images) == ("Which is soft?", ())
    assert message.endswith("problems.json problem '3': answer: -1 is not the place of one of 2 choices, counted from 0; correct it")
    assert [problem.id for problem in read("scienceqa", tmp_path / "data/scienceqa", "eval")[0]] == ["5"]


def test_geos_has_the_number_of_a_choice_as_its_answer(tmp_path: Path) -> None:
    choices = {str(number): f"{degrees}*\\degree" for number, degrees in enumerate((15, 30, 45, 60, 90), start=1)}
    row = {"key": 968, "text": "What is the degree measure of angle ABO?", "choices": choices, "answer": 4.00, "diagram_path": "/tmp/x.png"}
    write_json(tmp_path / "968/question.json", row)
    write_json(tmp_path / "971/question.json", row | {"key": 971, "answer": 6})
    for number in (968, 971):
        picture(tmp_path / f"{number}/diagram.png")
    (problem,), (message,) = read("geos", tmp_path)
    assert facts(problem) == ("968", "60\\degree", AnswerKind.CHOICE, tuple(f"{n}\\degree" for n in (15, 30, 45, 60, 90)))
    assert names(problem, tmp_path) == ["968/diagram.png"]
    assert message.endswith("971/question.json: answer: 6 is not the number of one of the choices ['1', '2', '3', '4', '5']; correct it")


def test_mathvista_keeps_the_digits_that_are_compared(tmp_path: Path) -> None:
    row = {"pid": "1", "question": "How far?", "image": "images/1.jpg", "choices": None, "unit": "cm", "precision": 1.0, "answer": "1.2"}
    options = {"choices": ["yes", "no"], "precision": None, "answer_type": "text", "unit": None}
    rows = {"1": row | {"answer_type": "float"}, "2": row | options | {"pid": "2", "answer": "no"}, "3": row | options | {"pid": "3"}}
    write_json(tmp_path / "testmini.json", rows)
    picture(tmp_path / "images/1.jpg")
    problems, (message,) = read("mathvista", tmp_path, "eval")
    assert [facts(problem) for problem in problems] == [
        ("1", "1.2", AnswerKind.NUMBER, ()),
        ("2", "no", AnswerKind.CHOICE, ("yes", "no")),
    ]
    assert (problems[0].question, problems[0].precision) == ("How far? (Unit: cm)", 1)
    assert "problem '3': answer: '1.2' is not one of the choices ['yes', 'no']" in message


def test_mmmu_has_options_as_a_list_in_text_and_images_in_columns(tmp_path: Path) -> None:
    row = {
        "id": "validation_Art_1",
        "question": "What is <image 1>, in <image 2>?",
        "options": "['<image 2>', \"it's red\"]",
        "answer": "B",
    }
    rows = [
        row | {"image_1": {"bytes": png("red"), "path": "validation_Art_1_1.png"}},
        row | {"id": "validation_Art_2", "options": "[]", "answer": "['0.5', '1/2']"},
        row | {"id": "validation_Art_3", "options": "[open('x')]"},
        row | {"id": "validation_Art_4", "answer": "?"},
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "validation.parquet")
    problems, messages = read("mmmu", tmp_path / "validation.parquet", "eval")
    assert [facts(problem) for problem in problems] == [
        ("validation_Art_1", "it's red", AnswerKind.CHOICE, ("image 2", "it's red")),
        ("validation_Art_2", "0.5", AnswerKind.NUMBER, ()),
    ]
    assert problems[0].question == "What is image 1, in image 2?"
    assert problems[0].images == (png("red"),)
    assert "row 3: options: \"[open('x')]\" is not a list" in messages[0]
    assert "row 4: answer: '?' is not the letter of one of 2 choices" in messages[1]
