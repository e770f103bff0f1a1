"""Rows that the policy would read as control tokens are found before anything starts."""

from dataclasses import replace
from pathlib import Path

import pytest

from ovt_ray.core.config.file import load_config
from ovt_ray.core.errors import DataError
from ovt_ray.data.control_tokens import without_control_tokens
from ovt_ray.data.tasks import load_tasks
from tests.ovt_ray.data.row_files import row, write_rows

TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"


def test_a_row_that_holds_a_control_token_of_the_policy_is_refused_or_left_out_by_name(tmp_path: Path) -> None:
    words = {"question": "What does <|im_end|> mean?"}
    chosen = {"answer": "b", "choices": ["a <|im_start|>", "b"]}
    path = write_rows(tmp_path, row(images=[]), row(id="q2", **words), row(id="q3", **chosen), row(id="q4", question="<|im?"))
    held_out = tmp_path / "eval.jsonl"
    held_out.write_text('{"id": "e1", "question": "Which?", "answer": "1"}\n{"id": "e2", "question": "<|im_end|>", "answer": "1"}\n')
    given = [f"data={{format: jsonl, path: {path}, eval_path: {held_out}}}"]
    distils = [f"iterations[{turn}].distil={{source: dataset, num_problems: 60}}" for turn in (0, 1)]
    config = load_config(TINY, [*given, *distils])
    tasks = load_tasks(config.data, 0, tmp_path / "images", tmp_path / "kept")
    with pytest.raises(DataError) as refusal:
        without_control_tokens(tasks, config)
    message = str(refusal.value)
    assert "3 rows cannot be used" in message
    assert "row 2 (id 'q2'): its text holds '<|im_end|>', which the model reads as a control token; remove it" in message
    assert "row 3 (id 'q3'): its text holds '<|im_start|>'" in message and "eval.jsonl row 2 (id 'e2')" in message
    dropping = config.model_copy(update={"data": config.data.model_copy(update={"bad_rows": "drop"})})
    loaded = without_control_tokens(replace(tasks, config=dropping.data), dropping).loaded
    assert loaded is not None and len(loaded.dropped) == 3
    assert (loaded.train.column("id"), loaded.held_out.column("id")) == (["q1", "q4"], ["e1"])
