"""`ovt-ray score`: every row keeps its place, bad lines are named and stop nothing."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ovt_ray.core.errors import ConfigError, DataError, RewardError
from ovt_ray.core.types import AnswerKind, Outcome
from ovt_ray.data.answer_rows import read_lines
from ovt_ray.score import named_reward, score_file
from reward.protocol import Part

pytestmark = pytest.mark.heavy
ROOT = Path(__file__).parents[2]
RIGHT = "<think> a </think> <answer> 6 </answer>"


def write(folder: Path, *lines: object) -> Path:
    path = folder / "in.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def scored(folder: Path, *lines: object, reward: str | None = None, options: Sequence[str] = ()) -> list[dict[str, object]]:
    target = folder / "scored.jsonl"
    score_file(write(folder, *lines), target, named_reward(reward, options), 2)
    return [json.loads(line) for line in target.read_text().splitlines()]


def test_rows_keep_their_order_and_their_fields_and_gain_a_verdict(tmp_path: Path) -> None:
    lines = [{"response": RIGHT, "gold": gold, "mine": [gold]} for gold in range(40)]
    rows = scored(tmp_path, *lines)
    assert [(row["gold"], row["mine"], row["response"]) for row in rows] == [(gold, [gold], RIGHT) for gold in range(40)]
    assert [row["outcome"] for row in rows] == ["correct" if gold == 6 else "wrong" for gold in range(40)]
    assert (rows[6]["value"], rows[6]["extracted"], rows[6]["reason"]) == (1.0, "6", "")
    assert (rows[5]["value"], rows[5]["extracted"]) == (0.0, "6") and "6" in str(rows[5]["reason"])


def test_an_extraction_is_scored_instead_of_the_response(tmp_path: Path) -> None:
    base = {"response": RIGHT, "answer": "7"}
    rows = scored(tmp_path, base, {**base, "extraction": None}, {**base, "extraction": "7"}, {"answer": 7, "extraction": 7.0})
    assert [row["outcome"] for row in rows] == ["wrong", "wrong", "correct", "correct"]


def test_bad_lines_are_named_in_their_place_and_stop_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"response": RIGHT, "gold": "6"}
    rows = scored(
        tmp_path,
        good,
        '{"response": ',
        [1],
        {"gold": "6"},
        {"response": "x"},
        {"response": "x", "gold": "6", "kind": "nummer"},
        {"response": "x", "gold": "Z", "choices": ["1", "2"]},
        {"response": "x", "gold": "", "id": 8},
        good,
    )
    assert [row["outcome"] for row in rows] == ["correct", *["unscorable"] * 7, "correct"]
    assert [set(row) for row in rows[1:3]] == [{"line", "outcome", "value", "extracted", "reason"}] * 2
    expected = [
        "line 2: not JSON",
        "line 3: a list, not a JSON object",
        "line 4: response: missing",
        "line 5: gold: missing",
        "line 6: kind: .*'nummer'",
        "line 7: gold: 'Z' is neither one of the choices",
        "line 8: gold: must not be empty",
    ]
    for row, message in zip(rows[1:8], expected, strict=True):
        assert re.match(message, str(row["reason"])) and row["value"] == 0.0
    assert rows[7]["id"] == 8
    seen = capsys.readouterr().err
    assert all(re.search(message, seen) for message in expected) and "7 bad lines" in seen


def test_rows_are_read_with_what_benchmarks_write(tmp_path: Path) -> None:
    lines = list(
        read_lines(
            write(
                tmp_path,
                {"response": "x", "gold": 1.5, "precision": 1.0, "unit": "cm", "question": None, "choices": None, "kind": None},
                {"response": "x", "gold": "B", "choices": ["one", "two"]},
                {"response": "x", "gold": "two", "choices": ["one", "two"]},
                {"response": "x", "gold": "(c)", "kind": "CHOICE"},
                "",
                {"response": "x", "gold": [0, 4], "kind": "list"},
                {"response": "x", "gold": "B", "choices": ["45", "49"], "kind": "number"},
                {"response": "x", "gold": "49", "choices": ["45", "49"], "kind": "text"},
                {"response": "x", "gold": "50", "choices": ["45", "49"], "kind": "number"},
            )
        )
    )
    problems = [line.problem for line in lines]
    assert [line.number for line in lines] == [1, 2, 3, 4, 6, 7, 8, 9]
    assert all(problem is not None for problem in problems)
    assert [(problem.kind, problem.answer) for problem in problems if problem] == [
        (AnswerKind.NUMBER, "1.5"),
        (AnswerKind.CHOICE, "two"),
        (AnswerKind.CHOICE, "two"),
        (AnswerKind.CHOICE, "C"),
        (AnswerKind.LIST, "[0, 4]"),
        (AnswerKind.CHOICE, "49"),
        (AnswerKind.CHOICE, "49"),
        (AnswerKind.NUMBER, "50"),
    ]
    assert problems[0] is not None and (problems[0].precision, problems[0].unit) == (1, "cm")


def test_any_reward_can_be_asked_also_one_that_crashes(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import os\n\ndef score(problem, text):\n    if text == 'exit':\n        os._exit(3)\n    return len(text) / 4\n"
    )
    rows = scored(tmp_path, *[{"response": text, "gold": "6"} for text in ("ab", "exit", "abcd")], reward=f"{tmp_path}/mine.py:score")
    assert [(row["outcome"], row["value"]) for row in rows] == [("wrong", 0.5), ("unscorable", 0.0), ("correct", 1.0)]
    assert "on problem line 2, completion 0: its process ended with exit code 3" in str(rows[1]["reason"])


def test_a_reward_with_options_is_asked(tmp_path: Path) -> None:
    overlong = "reward.shaping:OverlongPenalty"
    lines = [{"response": "word " * number, "gold": "6"} for number in (2, 5, 9)]
    rows = scored(tmp_path, *lines, reward=overlong, options=["max_tokens=8", "buffer_tokens=4"])
    assert [row["value"] for row in rows] == [0.0, -0.25, -1.0]
    with pytest.raises(ConfigError, match="--option 'max_tokens': give it as key=value"):
        named_reward(overlong, ["max_tokens"])


def test_the_output_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    with pytest.raises(RewardError, match="no module named 'nowhere'"):
        score_file(write(tmp_path, {"response": "x", "gold": "6"}), target, Part(name="nowhere:score"), 1)
    with pytest.raises(DataError, match="cannot be read"):
        score_file(tmp_path / "none.jsonl", target, None, 1)
    assert list(tmp_path.iterdir()) == [tmp_path / "in.jsonl"]


def test_a_place_where_no_file_can_be_is_refused_before_anything_is_scored(tmp_path: Path) -> None:
    source = write(tmp_path, {"response": "x", "gold": "6"})
    with pytest.raises(ConfigError, match="is a folder"):
        score_file(source, tmp_path, None, 1)
    with pytest.raises(ConfigError, match="there is no folder .*nowhere"):
        score_file(source, tmp_path / "nowhere" / "out.jsonl", None, 1)
    assert list(tmp_path.iterdir()) == [source]


def test_what_is_no_json_number_is_null_and_the_output_is_json(tmp_path: Path) -> None:
    line = '{"response": "6", "gold": "6", "extraction": NaN, "mine": [Infinity, 1e999, 1.5], "precision": "1", "unit": 5, "question": 7}'
    score_file(write(tmp_path, line), tmp_path / "out.jsonl", None, 1)
    (row,) = [json.loads(text, parse_constant=pytest.fail) for text in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert row["mine"] == [None, "1e999", 1.5] and row["outcome"] == "correct"


def test_a_failing_reward_is_said_on_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text("import time\n\ndef score(problem, text):\n    time.sleep(9 if text == 'hang' else 0)\n")
    reward = Part(name=f"{tmp_path}/mine.py:score")
    source = write(tmp_path, {"response": "a", "gold": "6"}, {"response": "hang", "gold": "6"}, "oops")
    tally = score_file(source, tmp_path / "out.jsonl", reward, 1, deadline_s=0.5)
    assert tally.is_in_vain and (tally.num_failed, tally.num_bad) == (2, 1)
    seen = capsys.readouterr().err
    assert re.search(r"^line 1: reward .* it returned NoneType, neither a Score nor a number$", seen, re.MULTILINE)
    assert "the reward failed on 2 rows" in seen
    assert "took longer than 0.5 s" in (tmp_path / "out.jsonl").read_text()


def test_an_empty_file_gives_an_empty_file(tmp_path: Path) -> None:
    assert scored(tmp_path) == []


def test_the_command_shows_progress_and_ends_with_the_counts(tmp_path: Path) -> None:
    source = write(tmp_path, *[{"response": RIGHT, "gold": gold} for gold in (6, 7, 8)], "oops")
    command = [sys.executable, "-m", "ovt_ray", "score", str(source), "--output", str(tmp_path / "out.jsonl"), "--processes", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "[score 4/4]" in done.stdout
    assert done.stdout.endswith("out.jsonl: 4 rows (25.00% correct): 1 correct, 2 wrong, 0 unparseable, 1 unscorable\n")
    assert "line 4: not JSON" in done.stderr


@pytest.mark.long
def test_a_reward_in_a_ray_actor_is_asked_on_ray(tmp_path: Path) -> None:
    source = write(tmp_path, *[{"response": "word " * number, "gold": "6"} for number in range(1, 30)], "oops")
    reward = f"{ROOT}/tests/reward/obedient_actors.py:Batch"
    command = [sys.executable, "-m", "ovt_ray", "score", str(source), "--output", str(tmp_path / "out.jsonl"), "--reward", reward]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["value"] for row in rows] == [*(pytest.approx(1 + number / 2) for number in range(1, 30)), 0.0]
    assert rows[-1]["outcome"] == Outcome.UNSCORABLE.value


REAL_ROWS = [
    ({"gold": "1.4", "kind": "number", "precision": 1.0, "unit": None, "extraction": "1.45"}, "correct", "MathVista rounds"),
    ({"gold": "1.45", "kind": "number", "precision": 2.0, "extraction": "1.4"}, "wrong", "but adds no digits"),
    ({"gold": "5", "kind": "number", "precision": 0, "extraction": "4.6"}, "wrong", "nor whole numbers"),
    ({"gold": "8", "kind": "number", "unit": "years", "extraction": "The gap is 8 years."}, "correct", "a sentence"),
    ({"gold": "145°", "choices": ["35°", "145°"], "kind": "text", "extraction": "145"}, "correct", "the text of an option"),
    ({"gold": "[0, 2, 0, 2]", "kind": "list", "extraction": "0, 2, 0, 2"}, "correct", "a list without brackets"),
    ({"gold": "B", "kind": "choice", "extraction": "(B) 49"}, "correct", "options that only the picture shows"),
    ({"gold": "B", "kind": "choice", "extraction": "B. no change"}, "correct", "with any text"),
    ({"gold": "B", "kind": "choice", "extraction": "C. 49"}, "wrong", "and another letter"),
    ({"gold": "B", "kind": "choice", "choices": ["$1$", "$2$"], "extraction": "2"}, "correct", "MathVision's options"),
    ({"gold": "\\frac{1}{2}", "extraction": "0.5"}, "correct", "and golds in LaTeX"),
    ({"gold": "3\\sqrt{2}", "extraction": "$3 \\sqrt2$ cm"}, "correct", "with a unit"),
    ({"gold": "2 \\pi", "extraction": "2π"}, "correct", "in Unicode"),
    ({"gold": "4:30 P.M.", "extraction": "4:30 PM"}, "correct", "TabMWP's times"),
    ({"gold": "0.55", "kind": "number", "unit": "$", "extraction": "$0.55"}, "correct", "its currency"),
    ({"gold": "11/26", "kind": "number", "extraction": "\\frac{11}{26}"}, "correct", "and its fractions"),
    ({"gold": "1", "kind": "yesno", "response": "Yes. The two lines are parallel."}, "correct", "HallusionBench's gold answers are digits"),
    ({"gold": "0", "kind": "yesno", "response": "Yes. The two lines are parallel."}, "wrong", "0 for no"),
]


def test_rows_as_benchmarks_write_them_get_the_benchmark_s_verdict(tmp_path: Path) -> None:
    rows = scored(tmp_path, *[row for row, _, _ in REAL_ROWS])
    missed = [(row, got["reason"]) for (row, outcome, _), got in zip(REAL_ROWS, rows, strict=True) if got["outcome"] != outcome]
    assert not missed
