"""Problems of Super-CLEVR (github.com/Lizw14/Super-CLEVR), in the files of CLEVR's generator.

Li et al., "Super-CLEVR: A Virtual Benchmark to Diagnose Domain Robustness in Visual Reasoning", CVPR 2023. Questions about the first
20,000 of 30,000 images are for training, and questions about the last 5,000 are held out.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import Problem
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.clevr import ClevrRow, question_problem
from ovt_ray.data.formats.reading import checked, folder_in, read_list

IMAGES_OF = {"train": range(20_000), "eval": range(25_000, 30_000)}


class SuperClevrRow(ClevrRow):
    """The fields of a question that this reader uses."""

    image_index: int
    """Number of the image, which decides the split."""


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the questions of a split. `path` is the repository's folder, the folder `output` in it, or a file of questions."""
    folder = path.parent if path.is_file() else folder_in(path, "output")
    files = [path] if path.is_file() else sorted(folder.glob("superCLEVR_questions*.json"))
    if not files:
        raise DataError(f"{folder}: no file superCLEVR_questions*.json; data.path must be Super-CLEVR's folder, or one such file")
    for file in files:
        for number, values in enumerate(read_list(file, "questions"), start=1):
            index = values.get("image_index") if isinstance(values, dict) else None
            if not isinstance(index, int) or index in IMAGES_OF[split]:
                yield f"{file} row {number}", partial(_problem, file, folder / "images", values)


def _problem(file: Path, images: Path, values: object) -> Problem:
    checked(SuperClevrRow, values)
    return question_problem(file, images, "super_clevr", values)
