"""The survey of a data set for `ovt-ray data`: its content, the rows that are left out, and the reasons."""

import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ovt_ray.core.config.data import DataConfig
from ovt_ray.core.config.formats import FORMATS
from ovt_ray.core.config.run import ModelConfig
from ovt_ray.core.errors import DataError
from ovt_ray.core.images import is_address
from ovt_ray.data.order import permutation
from ovt_ray.data.remote_images import host_of
from ovt_ray.data.rows import BenchmarkError
from ovt_ray.data.sources import MAX_LISTED, LoadedProblems, read_problems, settle
from ovt_ray.data.store import keep, problem_set
from ovt_ray.data.table import BadRow, ProblemSet
from ovt_ray.data.tasks import Tasks, Wanted
from ovt_ray.report.contact_sheet import write_contact_sheet
from ovt_ray.run.progress import Progress, phase

NUM_PROMPTS = 200
"""Number of problems whose prompts are rendered to count tokens. Each costs a pass of the image processor."""
QUANTILES = {"least": 0, "5 %": 5, "median": 50, "95 %": 95, "most": 100}


def survey(config: DataConfig, folder: Path, model: ModelConfig | None, *, sheet: Path, num_examples: int) -> None:
    """Print counts and sizes of the problems of a data set, and write a picture with examples. `folder` keeps the checked problems.

    Bad rows are listed with their effect on a run, whatever `bad_rows` says. With a model, its prompts are measured too.
    """
    with tempfile.TemporaryDirectory() as drawn:
        problems = _surveyed(config, folder, Path(drawn))
        both = {"learn from": problems.train, "held out": problems.held_out}
        print(f"{config.path or config.format}: {len(problems.train):,} problems to learn from, {len(problems.held_out):,} held out")
        print(f"held out: {_how_held_out(config, problems)}")
        _print_counts("source", {name: some.column("source") for name, some in both.items()})
        _print_counts("answers", {name: some.column("kind") for name, some in both.items()})
        _print_counts("choices", {name: _sizes(some, "choices") for name, some in both.items()})
        _print_counts("images", {name: _sizes(some, "images") for name, some in both.items()})
        _print_remote(problems, config, folder)
        _print_image_sizes([problems.train, problems.held_out], model)
        _print_repeats(problems)
        shown = problems.train or problems.held_out
        if model is not None and shown:
            _print_prompts(shown, model)
        _print_left_out(problems, config)
        if not shown:
            raise DataError(f"{config.path}: no row of it makes a problem; check data.path and data.format")
        examples = shown.select(permutation(len(shown), 0)[:num_examples])
        with phase(f"drawing {len(examples)} examples to {sheet}"):
            write_contact_sheet(sheet, examples)


def _surveyed(config: DataConfig, folder: Path, drawn: Path) -> LoadedProblems:
    """Return the problems of a data set. The embedded world draws `num_eval` problems for each part."""
    if config.format == "embedded":
        return _drawn(config, drawn)
    try:
        return read_problems(config.model_copy(update={"bad_rows": "drop"}), folder)
    except BenchmarkError as refusal:
        assert config.path is not None
        print(refusal)
        problems = problem_set(config.format, config.path, "eval", folder, image_hosts=config.image_hosts)
        return LoadedProblems(train=problems[:0], held_out=problems, dropped=settle(problems.bad, "drop"))


def _drawn(config: DataConfig, folder: Path) -> LoadedProblems:
    tasks = Tasks(config=config, seed=0, image_folder=folder / "images", loaded=None)
    with phase("drawing problems of the embedded world"):
        train, held_out = tasks.train(Wanted(purpose="data", num=config.num_eval)), tasks.held_out()
    train_set, held_out_set = (
        keep([(problem.id, partial(replace, problem)) for problem in part], name, folder / name)
        for name, part in (("train", train), ("held_out", held_out))
    )
    return LoadedProblems(train=train_set, held_out=held_out_set, dropped=())


def _how_held_out(config: DataConfig, problems: LoadedProblems) -> str:
    if config.format == "embedded":
        return f"figures of the {config.eval_split} split, which no stage learns from"
    if config.eval_path is not None:
        return f"at most {config.num_eval:,} (data.num_eval), the first of {config.eval_path} (data.eval_path)"
    if FORMATS[config.format].has_eval_split:
        return f"at most {config.num_eval:,} (data.num_eval), the first of the data set's own held-out problems"
    if len(problems.held_out) < config.num_eval:
        return f"all {len(problems.held_out):,}, as there are fewer than data.num_eval={config.num_eval:,}; lower it to learn from some"
    return f"{config.num_eval:,} chosen by a hash of their images (data.num_eval); problems about the same images are left out"


def _print_counts(name: str, values: dict[str, list[Any]]) -> None:
    """Print the count of each value in each part."""
    counts = {part: Counter(found) for part, found in values.items()}
    rows = sorted(set().union(*counts.values()), key=lambda value: (-counts["learn from"][value], str(value)))
    print(f"\n{name:<24}" + "".join(f"{part:>14}" for part in counts))
    for value in rows:
        print(f"  {str(value) or '(none)':<22}" + "".join(f"{found[value]:>14,}" for found in counts.values()))


def _sizes(problems: ProblemSet, name: str) -> list[int]:
    return [len(items) for items in problems.column(name)]


def _print_remote(problems: LoadedProblems, config: DataConfig, folder: Path) -> None:
    """Print the number of rows with images at web addresses, the number fetched, and the hosts that are not listed."""
    num_fetched = sum(num > 0 for part in (problems.train, problems.held_out) for num in part.column("num_fetched"))
    addresses = [row.image for row in _bad_rows(problems) if is_address(row.image)]
    if not num_fetched and not addresses:
        return
    print(f"\nimages at web addresses: {num_fetched + len(addresses):,} rows, {num_fetched:,} of them with every image fetched")
    missing: Counter[str] = Counter()
    for address in addresses:
        with suppress(DataError):  # no address: the list of rows that are left out has it
            missing[host_of(address)] += 1
    num_failed = sum(missing.pop(host, 0) for host in config.image_hosts)
    for host, num in missing.most_common(MAX_LISTED):
        print(f"  {num:,} on {host}, which data.image_hosts does not list")
    if num_failed:
        print(f"  {num_failed:,} could not be fetched: tried again as a run with data.bad_rows=refuse starts, or once {folder} is deleted")


def _print_image_sizes(parts: Sequence[ProblemSet], model: ModelConfig | None) -> None:
    width, height = (
        np.array([size for part in parts for sizes in part.column(name) for size in sizes]) for name in ("image_widths", "image_heights")
    )
    if not len(width):
        return
    pixels = width * height
    _print_quantiles("image size, pixels", {"width": width, "height": height, "both multiplied": pixels})
    if model is not None:
        print(
            f"  {np.count_nonzero(pixels > model.max_pixels):,} of {len(pixels):,} are scaled down to model.max_pixels={model.max_pixels:,}"
        )


def _print_quantiles(name: str, values: dict[str, np.ndarray]) -> None:
    print(f"\n{name:<24}" + "".join(f"{quantile:>12}" for quantile in QUANTILES))
    for row, found in values.items():
        print(f"  {row:<22}" + "".join(f"{value:>12,.0f}" for value in np.percentile(found, list(QUANTILES.values()))))


def _print_repeats(problems: LoadedProblems) -> None:
    """Print problems with the same images and question, and the number of held-out images that are also learnt from."""
    places: dict[object, list[tuple[str, str]]] = defaultdict(list)
    for part in (problems.train, problems.held_out):
        for place, answer, question, images in zip(*map(part.column, ("place", "answer", "question", "image_hashes")), strict=True):
            places[question, tuple(images)].append((place, answer))
    repeated = [found for found in places.values() if len(found) > 1]
    differ = [found for found in repeated if len({answer for _, answer in found}) > 1]
    print(f"\nsame question and images: {sum(len(found) - 1 for found in repeated):,} problems, {len(differ):,} with another answer")
    for found in sorted(repeated, key=lambda found: found not in differ)[:MAX_LISTED]:
        print("  " + "; ".join(f"{place}: {answer!r}" for place, answer in found[:4]))
    learnt, held_out = (
        {digest for found in part.column("image_hashes") for digest in found} for part in (problems.train, problems.held_out)
    )
    print(f"images both learnt from and held out: {len(learnt & held_out):,} of {len(held_out):,}")


def _print_prompts(problems: ProblemSet, model: ModelConfig) -> None:
    from ovt_ray.core.prompts import Prompts, model_path

    prompts = Prompts(model_path(model), model)
    chosen = problems.select(permutation(len(problems), 1)[:NUM_PROMPTS])
    lengths = list(_prompt_lengths(chosen, prompts))
    _print_quantiles(f"prompt, {model.path}", {f"tokens, of {len(chosen):,}": np.array(lengths)})


def _prompt_lengths(problems: ProblemSet, prompts: Any) -> Iterator[int]:
    began = time.monotonic()
    with Progress("prompts", len(problems)) as progress:
        for number in range(len(problems)):
            yield len(prompts.inputs(problems[number]).prompt_ids)
            if time.monotonic() - began > 2:
                progress.step(number, {})


def _print_left_out(problems: LoadedProblems, config: DataConfig) -> None:
    print(f"\nleft out: {len(problems.dropped):,}")
    for message in problems.dropped[:MAX_LISTED]:
        print(f"  {message}")
    if len(problems.dropped) > MAX_LISTED:
        print(f"  ... and {len(problems.dropped) - MAX_LISTED:,} more")
    if config.bad_rows == "refuse" and not all(row.is_left_out for row in _bad_rows(problems)):
        print("  a run does not start with rows that cannot be used, unless data.bad_rows=drop")


def _bad_rows(problems: LoadedProblems) -> Sequence[BadRow]:
    """Return the rows of both parts that make no problem. Both parts of one file list the same rows."""
    train, held_out = problems.train.bad, problems.held_out.bad
    return train if train == held_out else [*train, *held_out]
