"""Data that other trainers are fed with: read, and written out again so that nothing is lost on the way."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from ovt_ray.cli import main
from ovt_ray.core.errors import DataError
from ovt_ray.core.files import write_json_lines_atomically
from ovt_ray.core.prompts import shown_text
from ovt_ray.core.types import AnswerKind, Outcome, Problem, Score, Trace
from ovt_ray.data.export import write_easyr1, write_llama_factory
from ovt_ray.data.formats.hub import EVALUATION_SETS, parsed
from ovt_ray.data.rows import problem_row
from ovt_ray.data.store import problem_set
from ovt_ray.distil import read_traces
from ovt_ray.distillation.chains import chains_by_dataset
from reward.accuracy import score_accuracy
from tests.ovt_ray.data.formats.published import picture, png, read, write_json

RESPONSE = "<think> Two and two. </think> <answer> 4 </answer>"


def conversation(question: str = "<image>How many?", response: str = RESPONSE, images: tuple[str, ...] = ("pictures/1.png",)) -> dict:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": response}]
    return {"messages": messages, "images": list(images)}


def image(colour: str, path: str | None = None) -> dict[str, object]:
    return {"bytes": png(colour), "path": path}


def as_traces(problems: list[Problem]) -> list[Trace]:
    """What distillation makes of worked solutions before they are verified."""

    class Unverified:
        def score_texts(
            self, answered: Iterable[tuple[Problem, Sequence[str]]]
        ) -> Iterator[tuple[Problem, Sequence[str], tuple[Score, ...]]]:
            return ((problem, texts, ()) for problem, texts in answered)

    return [Trace(problem=chains.problem, response=chains.responses[0]) for chains in chains_by_dataset(Unverified(), problems)]


def test_easyr1_rows_of_parquet_become_problems_with_the_bytes_of_their_images(tmp_path: Path) -> None:
    rows = [
        {"images": [image("red")], "problem": "<image>Find $x$.", "answer": "5\\sqrt{2}"},
        {"images": [image("red"), image("blue")], "problem": "<image>\n<image>\nIs <b> larger?", "answer": "Yes"},
        {"images": [image("red")], "problem": "In <image>, which <image>?", "answer": "4"},
        {"images": [], "problem": "What is 1 + 1?", "answer": ""},
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    (first, second), (third, fourth) = read("easyr1", tmp_path / "train.parquet")
    assert (first.id, first.question, first.answer, first.kind) == ("train-1", "Find $x$.", "5\\sqrt{2}", AnswerKind.LATEX)
    assert first.images == (png("red"),)
    assert (second.question, second.images) == ("Is <b> larger?", (png("red"), png("blue")))
    assert "row 3: problem: 2 image placeholders for 1 images; write one for each, or none" in third
    assert "row 4: answer: must not be empty" in fourth


def test_easyr1_rows_of_json_have_paths_inside_their_folder(tmp_path: Path) -> None:
    picture(tmp_path / "set/pictures/1.png")
    picture(tmp_path / "outside.png")
    (tmp_path / "set/pictures/link.png").symlink_to(tmp_path / "outside.png")
    names = ["pictures/1.png", "pictures/link.png", "../outside.png", str(tmp_path / "outside.png"), "s3://host/1.png"]
    rows = [{"problem": "How many?", "answer": 4, "images": [name]} for name in names]
    file = tmp_path / "set/rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    problems, messages = read("easyr1", file)
    assert [problem.answer for problem in problems] == ["4", "4"]
    assert [message.split(": ")[1] for message in messages[:3]] == [f"image {name!r}" for name in names[2:]]
    assert "must be a file inside the data set's folder" in messages[0]
    assert "must be the name of a file, not a web address" in messages[2]
    assert "rows.jsonl row 6: row: " in messages[3]


def test_verl_rows_have_a_prompt_of_messages_and_a_ground_truth(tmp_path: Path) -> None:
    def row(question: str | None, *prompt: dict[str, str]) -> dict[str, object]:
        return {
            "data_source": "hiyouga/geometry3k",
            "prompt": list(prompt),
            "images": [image("red")],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "60"},
            "extra_info": {"split": "train", "index": 0, "answer": "60", "question": question},
        }

    user = {"role": "user", "content": "<image>Find $x$. You FIRST think."}
    rows = [row("<image>Find $x$.", user), row(None, {"role": "system", "content": "Think."}, user), row(None, user, user)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    (first, second), (message,) = read("verl", tmp_path / "train.parquet")
    assert (first.question, first.answer, first.kind, first.source) == ("Find $x$.", "60", AnswerKind.NUMBER, "hiyouga/geometry3k")
    assert (second.question, second.images) == ("Find $x$. You FIRST think.", (png("red"),))
    assert "row 3: prompt: must be one user message after an optional system one, got ['user', 'user']" in message


def test_llama_factory_conversations_become_problems_and_worked_solutions(tmp_path: Path) -> None:
    picture(tmp_path / "pictures/1.png")
    rows = [
        conversation(),
        conversation(response="It is 4."),
        conversation() | {"messages": conversation()["messages"] * 2},
        {"conversations": [{"from": "human", "value": "Is it?"}, {"from": "gpt", "value": "<think>It is.</think><answer>yes</answer>"}]},
        {"instruction": "Add.", "input": "1 and 2", "output": "<think>One, two.</think> <answer>3</answer>"},
        {"instruction": "Add.", "output": None},
        conversation() | {"videos": ["clip.mp4"]},
    ]
    (first, second, third), messages = read("llama_factory", write_json(tmp_path / "rows.json", rows))
    assert (first.question, first.answer, first.solution) == ("How many?", "4", RESPONSE)
    assert first.images == (str(tmp_path / "pictures/1.png"),)
    assert (second.question, second.kind, second.images, second.solution) == (
        "Is it?",
        AnswerKind.YESNO,
        (),
        "<think>It is.</think><answer>yes</answer>",
    )
    assert (third.question, third.answer) == ("Add.\n1 and 2", "3")
    assert "row 2: the assistant's message does not begin with <think>; it must be" in messages[0]
    assert "row 3: messages: must be 'user', then 'assistant', one question and one answer, got ['user', 'assistant'," in messages[1]
    assert messages[2].endswith("row 6: output: must be text, got nothing")
    assert messages[3].endswith("row 7: videos: only images are read; leave such rows out")


def test_llama_factory_columns_are_those_that_dataset_info_names(tmp_path: Path) -> None:
    entry = {
        "file_name": "rows.json",
        "formatting": "sharegpt",
        "columns": {"messages": "talk", "images": "pictures"},
        "tags": {"role_tag": "who", "content_tag": "what", "user_tag": "me", "assistant_tag": "you"},
    }
    about = write_json(tmp_path / "dataset_info.json", {"other": {"hf_hub_url": "x"}, "mine": entry})
    talk = [{"who": "system", "what": "Think."}, {"who": "me", "what": "How many?"}, {"who": "you", "what": RESPONSE}]
    file = write_json(tmp_path / "rows.json", [{"talk": talk, "pictures": [str(picture(tmp_path / "a.png"))]}])
    (problem,), messages = read("llama_factory", file)
    assert messages == []
    assert (problem.question, problem.answer, problem.images) == ("How many?", "4", (str(tmp_path / "a.png"),))
    write_json(about, {"mine": entry | {"formatting": "other"}})
    with pytest.raises(DataError, match=r"dataset_info.json: the entry of rows.json: formatting: Input should be 'alpaca' or 'sharegpt'"):
        read("llama_factory", file)


def test_llama_factory_json_is_read_and_written_out_equal(tmp_path: Path) -> None:
    for name in ("1", "2"):
        picture(tmp_path / f"pictures/{name}.png")
    rows = [
        conversation(response="<think>Two\nand two.</think>\n\nSo: <answer>4</answer>\n"),
        conversation("What is\n1 + 1?", images=()),
        conversation("<image><image>Which?", images=("pictures/1.png", "pictures/2.png")),
    ]
    problems, messages = read("llama_factory", write_json(tmp_path / "rows.json", rows))
    assert messages == []
    write_llama_factory(tmp_path / "again.json", as_traces(problems))
    assert json.loads((tmp_path / "again.json").read_text()) == rows


def test_a_response_that_says_image_is_not_counted_among_the_images(tmp_path: Path) -> None:
    problem = Problem(id="1", question="Which?", images=(png("red"),), answer="4", kind=AnswerKind.NUMBER)
    write_llama_factory(
        tmp_path / "traces.json", [Trace(problem=problem, response="<think> In <image> I see 4. </think> <answer> 4 </answer>")]
    )
    (row,) = json.loads((tmp_path / "traces.json").read_text())
    assert [turn["content"] for turn in row["messages"]] == ["<image>Which?", "<think> In the image I see 4. </think> <answer> 4 </answer>"]
    assert read("llama_factory", tmp_path / "traces.json")[1] == []


def test_easyr1_parquet_is_read_and_written_out_equal(tmp_path: Path) -> None:
    features = datasets.Features(
        {"images": datasets.List(datasets.Image()), "problem": datasets.Value("string"), "answer": datasets.Value("string")}
    )
    rows = [
        {"images": [image("red"), image("blue")], "problem": "<image><image>Which?", "answer": "5\\sqrt{2}"},
        {"images": [], "problem": "What is 1 + 1?", "answer": "2"},
    ]
    table = pa.Table.from_pylist(rows, features.arrow_schema)
    parquet.write_table(table, tmp_path / "train.parquet")
    problems, messages = read("easyr1", tmp_path / "train.parquet")
    assert messages == []
    write_easyr1(tmp_path / "again.parquet", problems)
    again = parquet.read_table(tmp_path / "again.parquet")
    assert again.to_pylist() == rows
    assert again.schema.metadata == table.schema.metadata  # so `datasets` sees images
    assert again.schema.names == table.schema.names


def test_the_traces_of_a_run_are_exported_and_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on_disk = str(picture(tmp_path / "run/images/1.png", "blue"))
    problems = [
        Problem(id="1", question="Which?", images=(png("red"),), answer="b", kind=AnswerKind.CHOICE, choices=("a", "b")),
        Problem(id="2", question="How many?", images=(on_disk,), answer="4", kind=AnswerKind.NUMBER),
    ]
    traces = [Trace(problem=problem, response=f"<think> So. </think> <answer> {problem.answer} </answer>") for problem in problems]
    source = tmp_path / "run/distil/traces.jsonl"
    rows = [problem_row(trace.problem, source.parent) | {"response": trace.response} for trace in traces]
    write_json_lines_atomically(source, rows)
    assert read_traces(source) == traces

    out = tmp_path / "out/traces.json"
    assert main(["export-data", str(source), str(out)]) == 0
    printed = capsys.readouterr().out
    assert json.loads("{" + printed.partition("dataset_info.json: ")[2] + "}")["traces"]["file_name"] == "traces.json"
    read_back, messages = read("llama_factory", out)
    assert messages == []
    assert [problem.question for problem in read_back] == ["Which?\n(A) a\n(B) b", "How many?"]
    assert [Path(str(problem.images[0])).read_bytes() for problem in read_back] == [png("red"), png("blue")]
    assert [trace.response for trace in as_traces(read_back)] == [trace.response for trace in traces]

    assert main(["export-data", str(source), str(tmp_path / "out/traces.parquet")]) == 0
    read_back, _ = read("easyr1", tmp_path / "out/traces.parquet")
    assert [(problem.answer, problem.images) for problem in read_back] == [("b", (png("red"),)), ("4", (png("blue"),))]


def test_real_problems_leave_and_come_back_with_their_answers_solutions_and_images(shared: Path, tmp_path: Path) -> None:
    problems = read("tabmwp", shared / "tabmwp")[0][::10]
    write_llama_factory(tmp_path / "traces.json", as_traces(problems))
    write_easyr1(tmp_path / "problems.parquet", problems)
    from_json, messages = read("llama_factory", tmp_path / "traces.json")
    from_parquet, more = read("easyr1", tmp_path / "problems.parquet")
    assert (len(problems), messages, more) == (100, [], [])
    for problem, talk, row in zip(problems, from_json, from_parquet, strict=True):
        content = Path(str(problem.images[0])).read_bytes()
        assert (Path(str(talk.images[0])).read_bytes(), row.images[0]) == (content, content)
        assert (talk.answer, row.answer, talk.solution) == (problem.answer, problem.answer, as_traces([problem])[0].response)
        assert talk.question == row.question == shown_text(problem)
        assert score_accuracy(talk, as_traces([talk])[0].response).outcome is Outcome.CORRECT


@pytest.mark.parametrize(
    ("line", "target", "expected"),
    [
        ('{"id": "1"}', "out.json", "traces.jsonl line 1: must be an object with a 'response'"),
        ('{"response": "x"}', "out.json", "traces.jsonl line 1: id: missing"),
        ('{"response": "x"}', "out.csv", "out.csv: must end in .json (LLaMA-Factory) or .parquet (EasyR1)"),
        (None, "out.json", "traces.jsonl: no such file; give a traces.jsonl"),
    ],
)
def test_an_export_that_cannot_be_made_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str | None, target: str, expected: str
) -> None:
    if line is not None:
        (tmp_path / "traces.jsonl").write_text(line + "\n")
    assert main(["export-data", str(tmp_path / "traces.jsonl"), str(tmp_path / target)]) == 1
    assert expected in capsys.readouterr().err
    assert not (tmp_path / target).exists()


def published_table() -> datasets.Dataset:
    rows = {
        "pid": ["a", "b", "c", "d"],
        "problem": ["<image>Which?", "Which?", "Which?", "Which?"],
        "image": [image("red")] * 4,
        "options": [["x", "y"]] * 4,
        "answer": ["B", "y", "(A)", "z"],
        "solution": ["So y.", None, None, None],
        "unused": [1, 2, 3, 4],
    }
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("kept_as", ["dataset", "splits", "parquet"])
def test_a_folder_that_datasets_opens_is_read_by_its_published_columns(kept_as: str, tmp_path: Path, own_cache: None) -> None:
    table, folder = published_table(), tmp_path / "mathset"
    if kept_as == "dataset":
        table.save_to_disk(folder)
    elif kept_as == "splits":
        datasets.DatasetDict({"train": table, "test": table.select([1])}).save_to_disk(folder)
    else:
        folder.mkdir()
        table.to_parquet(folder / "train-00000-of-00001.parquet")
        table.select([1]).to_parquet(folder / "test-00000-of-00001.parquet")
    problems, (message,) = read("hub", folder)
    assert [(problem.id, problem.answer) for problem in problems] == [("a", "y"), ("b", "y"), ("c", "x")]
    assert (problems[0].question, problems[0].solution, problems[0].source) == ("Which?", "So y.", "mathset")
    assert {problem.images for problem in problems} == {(png("red"),)}
    assert message == f"{folder} row 4: answer: 'z' is not the letter of one of 2 choices; correct it"
    if kept_as != "dataset":
        assert [problem.id for problem in read("hub", Path(f"{folder}:test"), "eval")[0]] == ["b"]
        with pytest.raises(DataError, match=r"split 'absent' cannot be opened .*check data.path"):
            read("hub", Path(f"{folder}:absent"))
    if kept_as == "parquet":
        assert read("hub", Path(f"stream:{folder}"))[0] == problems


def test_a_split_of_a_folder_is_read_anew_when_the_folder_changes(tmp_path: Path, own_cache: None) -> None:
    folder, table = tmp_path / "set", published_table()
    datasets.DatasetDict({"test": table.select([0])}).save_to_disk(folder)
    assert list(problem_set("hub", Path(f"{folder}:test"), "eval", tmp_path / "kept").column("id")) == ["a"]
    datasets.DatasetDict({"test": table.select([0, 1])}).save_to_disk(folder)
    assert list(problem_set("hub", Path(f"{folder}:test"), "eval", tmp_path / "kept").column("id")) == ["a", "b"]


def test_a_hub_name_may_be_followed_by_a_table_and_a_split() -> None:
    assert parsed("owner/name") == ("owner/name", None, "train", False)
    assert parsed("owner/name:test") == ("owner/name", None, "test", False)
    assert parsed("stream:owner/name/Art:validation[:10%]") == ("owner/name", "Art", "validation[:10%]", True)
    with pytest.raises(DataError, match=r"owner/name:a b: split 'train' cannot be opened .*check data.path"):
        read("hub", Path("owner/name:a b"))


def test_images_in_columns_of_their_own_are_shown_in_their_order(tmp_path: Path, own_cache: None) -> None:
    rows = {
        "question": ["<image_1> turned is?", "Which of <image 1> and <image 2> fits <image 1>?", "In <image_1>?"],
        "options": [["<image_2>", "none"], ["the first", "the second"], ["x", "y"]],
        "image_2": [image("blue"), image("green"), None],
        "image_1": [image("red")] * 3,
        "answer": ["A", "B", "A"],
    }
    table = datasets.Dataset.from_dict(rows)
    for name in ("image_1", "image_2"):
        table = table.cast_column(name, datasets.Image())
    table.save_to_disk(tmp_path / "set")
    (first, second, third), bad = read("hub", tmp_path / "set")
    assert (first.question, first.choices, first.answer) == ("turned is?", ("image 2", "none"), "image 2")
    assert (second.question, second.answer) == ("Which of image 1 and image 2 fits image 1?", "the second")
    assert [problem.images for problem in (first, second)] == [(png("red"), png("blue")), (png("red"), png("green"))]
    assert (third.images, bad) == ((png("red"),), [])


@pytest.mark.parametrize("kind", [datasets.Image(), datasets.List(datasets.Image())])
def test_a_table_whose_images_stand_under_another_name_is_refused(kind: object, tmp_path: Path, own_cache: None) -> None:
    features = datasets.Features({"question": datasets.Value("string"), "answer": datasets.Value("string"), "figure": kind})
    figure = image("red") if isinstance(kind, datasets.Image) else [image("red")]
    table = datasets.Dataset.from_dict({"question": ["?"], "answer": ["1"], "figure": [figure]}, features=features)
    table.save_to_disk(tmp_path / "set")
    with pytest.raises(DataError, match=r"no column for images: one must be named .* or image_1, got \['figure'\]"):
        read("hub", tmp_path / "set")


BENCHMARKS = [
    "MathLLMs/MathVision:test",
    "AI4Math/MathVista:testmini",
    "MMMU/MMMU/Art:validation",
    "MMMU/MMMU_Pro",
    "x/EMMA-mini",
    "x/MATH-V",
]


@pytest.mark.parametrize("name", ["Zhiqiang007/MathV360K", "x/math-verify-rl", "x/math-vqa", "google/gemma-math", "x/math-v-like"])
def test_a_name_that_a_benchmark_s_is_a_part_of_is_none(name: str) -> None:
    assert EVALUATION_SETS.search(name.rpartition("/")[2]) is None


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_of_the_hub_is_never_learnt_from(name: str) -> None:
    with pytest.raises(DataError, match="is an evaluation set, never to be trained on"):
        read("hub", Path(name))


def test_a_set_without_an_answer_column_has_its_answers_in_tags_of_its_solutions(tmp_path: Path, own_cache: None) -> None:
    solutions = ["<think>Two and one.</think> <answer> 3 </answer>", "<answer> yes </answer>", "It is 3."]
    rows = {"problem": ["How many?"] * 3, "image": [image("red")] * 3, "solution": solutions}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "set")
    problems, (message,) = read("hub", tmp_path / "set")
    assert [(problem.answer, problem.solution, problem.kind.value) for problem in problems] == [
        ("3", "<think>Two and one.</think> <answer> 3 </answer>", "number"),
        ("yes", "", "yesno"),
    ]
    assert message.endswith("set row 3: answer: missing, and the solution 'It is 3.' has none between <answer> tags")


def test_the_code_of_a_data_set_is_never_run(tmp_path: Path, own_cache: None) -> None:
    folder = tmp_path / "myset"
    folder.mkdir()
    (folder / "myset.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(DataError, match=r"myset: split 'train' cannot be opened"):
        read("hub", folder)
    assert not (tmp_path / "ran").exists()


def test_a_table_without_a_question_is_refused_with_the_names_that_are_known(tmp_path: Path, own_cache: None) -> None:
    datasets.Dataset.from_dict({"text": ["x"], "label": [1]}).save_to_disk(tmp_path / "set")
    with pytest.raises(DataError, match=r"no column for question: one must be named question or problem or query, got text, label"):
        read("hub", tmp_path / "set")
