"""Answers kept for people: `samples/<stage>.jsonl`, and the images of their problems in `samples/images/`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ovt_ray.core.files import read_json_lines, write_json_lines_atomically
from ovt_ray.core.images import image_bytes, image_facts, store_image
from ovt_ray.core.types import AnswerKind, ImageSource, Outcome, Problem
from ovt_ray.data.rows import problem_row

SAMPLES = "samples"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRecord:
    """One answer of a model and its verdict."""

    problem: Problem
    response: str
    """Text of the answer as the model wrote it."""
    outcome: Outcome
    extracted: str | None
    """Final answer that was read from the response; None if there is none."""
    reward: float
    reason: str = ""
    """Explanation for people: a broken format, an exception of the reward, or the end of its process."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Value of each part of the reward, before weighting."""
    step: int
    """Number of steps that the stage had taken."""


def write_samples(run_dir: Path, stage: str, samples: Sequence[SampleRecord]) -> Path:
    """Replace the samples of a stage (`iter1/grpo`) and return their file. Images are copied in, once each."""
    path = run_dir / SAMPLES / f"{stage}.jsonl"
    write_json_lines_atomically(path, [_row(run_dir, sample) for sample in samples])
    return path


def read_samples(run_dir: Path, stage: str) -> list[SampleRecord]:
    """Return the samples of a stage, with image paths that can be opened; none if it has written none."""
    return [_record(run_dir, row) for row in read_json_lines(run_dir / SAMPLES / f"{stage}.jsonl")]


def _row(run_dir: Path, sample: SampleRecord) -> dict[str, object]:
    images = tuple(str(_copied_in(run_dir, source)) for source in sample.problem.images)
    return {
        "problem": problem_row(replace(sample.problem, images=images), run_dir),
        "response": sample.response,
        "outcome": sample.outcome.value,
        "extracted": sample.extracted,
        "reward": sample.reward,
        "reason": sample.reason,
        "parts": dict(sample.parts),
        "step": sample.step,
    }


def _record(run_dir: Path, row: dict[str, Any]) -> SampleRecord:
    problem = row["problem"]
    return SampleRecord(
        problem=Problem(
            id=problem["id"],
            question=problem["question"],
            images=tuple(str(run_dir / path) for path in problem["images"]),
            answer=problem["answer"],
            kind=AnswerKind(problem["kind"]),
            choices=tuple(problem["choices"]),
            source=problem["source"],
        ),
        response=row["response"],
        outcome=Outcome(row["outcome"]),
        extracted=row["extracted"],
        reward=row["reward"],
        reason=row["reason"],
        parts=row["parts"],
        step=row["step"],
    )


def _copied_in(run_dir: Path, source: ImageSource) -> Path:
    """Return the path of an image's copy in the run folder, named by its content."""
    content = image_bytes(source)
    return Path(store_image(content, image_facts(content), run_dir / SAMPLES / "images"))
