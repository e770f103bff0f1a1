"""Traces as other trainers read them: LLaMA-Factory's ShareGPT as JSON, to learn the responses; EasyR1's Parquet, to learn from answers.

The formats `llama_factory` and `easyr1` read these files again. Images stand before the question and the options of a choice below it,
as in a run's prompt. The instruction of the prompt belongs to the config and is not written.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from ovt_ray.core.files import replacing, write_json_atomically
from ovt_ray.core.images import image_bytes, image_facts, store_image
from ovt_ray.core.prompts import shown_text
from ovt_ray.core.types import ImageSource, Problem, Trace
from ovt_ray.data.formats.reading import placeholders_in_words

ROWS_AT_ONCE = 64
DATASET_INFO = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "images": "images"},
    "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
}


def write_llama_factory(target: Path, traces: Sequence[Trace]) -> None:
    """Write traces as a list of conversations, so that the target's folder holds all they need.

    A response that says `<image>` says it in words: LLaMA-Factory counts it among the images of the row, in whatever turn it stands.
    """
    rows = [
        {
            "messages": [
                {"role": "user", "content": _shown(trace.problem)},
                {"role": "assistant", "content": placeholders_in_words(trace.response)},
            ],
            "images": [_path(image, target) for image in trace.problem.images],
        }
        for trace in traces
    ]
    write_json_atomically(target, rows)


def write_easyr1(target: Path, problems: Sequence[Problem]) -> None:
    """Write problems with the bytes of their images, in the columns of `hiyouga/geometry3k`."""
    import datasets
    import pyarrow as pa
    from pyarrow import parquet

    text = datasets.Value("string")
    schema = datasets.Features({"images": datasets.List(datasets.Image()), "problem": text, "answer": text}).arrow_schema
    with replacing(target) as file, parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, len(problems), ROWS_AT_ONCE):
            rows = [_easyr1_row(problem) for problem in problems[start : start + ROWS_AT_ONCE]]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))


def _easyr1_row(problem: Problem) -> dict[str, object]:
    contents = [image_bytes(image) for image in problem.images]
    images = [{"bytes": content, "path": None} for content in contents]
    return {"images": images, "problem": _shown(problem), "answer": problem.answer}


def _shown(problem: Problem) -> str:
    return "<image>" * len(problem.images) + placeholders_in_words(shown_text(problem))


def _path(image: ImageSource, target: Path) -> str:
    """Return an image's path from the folder of the target; an image outside it is written to `<stem>_images`."""
    folder = target.parent.resolve()
    if isinstance(image, str) and Path(image).resolve().is_relative_to(folder):
        return os.path.relpath(Path(image).resolve(), folder)
    images = folder / f"{target.stem}_images"
    content = image_bytes(image)
    return os.path.relpath(store_image(content, image_facts(content), images), folder)
