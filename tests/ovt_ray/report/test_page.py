"""The report of a small made-up run, with a model that writes hostile text."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import AnswerKind, Outcome, Problem
from ovt_ray.report.curves import draw_curves
from ovt_ray.report.page import write_report
from ovt_ray.report.samples import SampleRecord, read_samples, write_samples
from ovt_ray.run.metrics import MetricsLog, MetricsRow
from ovt_ray.run.results import measured, read_results, stage_table, write_results

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)></pre>\" onload='x' \ud800"


def png(colour: str) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(encoded, "PNG")
    return encoded.getvalue()


def make_sample(outcome: Outcome, response: str = "<answer> 4 </answer>", image: str | bytes | None = None) -> SampleRecord:
    problem = Problem(id="q1", question=f"How high? {HOSTILE}", images=(image or png("red"),), answer="4", kind=AnswerKind.NUMBER)
    return SampleRecord(problem=problem, response=response, outcome=outcome, extracted=HOSTILE, reward=1.0, step=25)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of three stages, two with samples."""
    folder = tmp_path / "my run & co"
    folder.mkdir()
    counts = [(0, "base", 40), (1, "sft", 60), (1, "grpo", 90)]
    results = [measured(i, s, num_correct=n, num_problems=100, response_tokens=15.0, seconds=75.0) for i, s, n in counts]
    write_results(folder, results)
    with MetricsLog(folder, "iter1/grpo", 0) as log:
        for step in range(5):
            log.log(step, {"reward": 0.5 + 0.1 * step, "accuracy": 0.4 + 0.1 * step, "response_tokens": 12.0 + step})
    with MetricsLog(folder, "iter1/sft", 0) as log:
        log.log(0, {"loss": float("nan")})
        log.log(1, {"loss": 2.0})
    write_samples(folder, "iter1/sft", [make_sample(Outcome.WRONG, HOSTILE)])
    write_samples(folder, "iter1/grpo", [make_sample(Outcome.CORRECT)])
    (folder / "config.json").write_text(json.dumps({"name": "</pre><script>"}))
    return folder


class Tags(HTMLParser):
    """Collects the elements, their attributes and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_text_is_shown_but_makes_no_element_or_attribute(run_dir: Path) -> None:
    page = write_report(run_dir).read_text()
    tags = Tags(page)
    assert "<script" not in page
    assert all(not name.startswith("on") for _, attributes in tags.seen for name in attributes)
    assert tags.text.count("<script>alert(1)</script>") == 2  # question and response
    assert "default-src 'none'" in page


def test_hostile_choices_answers_and_reasons_stay_text(run_dir: Path) -> None:
    sample = make_sample(Outcome.WRONG)
    problem = replace(sample.problem, answer=f"gold {HOSTILE}", choices=(f"first {HOSTILE}", "second"))
    write_samples(run_dir, "iter1/sft", [replace(sample, problem=problem, extracted=None, reason=f"why {HOSTILE}")])
    page = write_report(run_dir).read_text()
    tags = Tags(page)
    assert "<script" not in page and all(not name.startswith("on") for _, attributes in tags.seen for name in attributes)
    shown = HOSTILE.replace("\ud800", "?")
    assert f"choices: first {shown} | second · gold answer: gold {shown}" in tags.text
    assert [attributes["title"] for _, attributes in tags.seen if "title" in attributes][0] == f"no answer read; reward 1; why {shown}"


def test_every_image_of_the_page_is_inside_it_and_decodes(run_dir: Path) -> None:
    tags = Tags(write_report(run_dir).read_text())
    sources = [attributes["src"] or "" for tag, attributes in tags.seen if tag == "img"]
    pictures = [Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))) for source in sources]
    curves, sample = pictures  # both stages answered the same problem: one card, one image
    assert curves.size[0] > 1000
    assert sample.convert("RGB").getpixel((5, 5)) == (255, 0, 0)


def test_the_page_states_accuracies_intervals_and_verdicts(run_dir: Path) -> None:
    text = Tags(write_report(run_dir).read_text()).text
    for expected in ("From 40.0% (base) to 90.0% (GRPO 1)", "82.6% – 94.5%", "1:15", "gold answer: 4", "wrong", "correct"):
        assert expected in text


def test_the_curves_show_more_once_there_is_more_to_show(run_dir: Path, tmp_path: Path) -> None:
    write_report(run_dir)
    empty = tmp_path / "empty"
    empty.mkdir()
    write_report(empty)
    full, blank = (Image.open(folder / "curves.png").convert("RGB") for folder in (run_dir, empty))
    assert len(set(full.get_flattened_data())) > 2 * len(set(blank.get_flattened_data()))


def test_losses_on_held_out_traces_are_drawn_beside_those_of_the_steps() -> None:
    def curves(**values: float) -> bytes:
        return draw_curves(
            "run", [], [MetricsRow(time=0.0, stage="iter1/sft", step=step, values={"loss": 2.0, **values}) for step in (0, 1)]
        )

    assert curves() != curves(validation_loss=1.0) != curves(validation_loss=1.5)


def test_an_image_that_was_damaged_since_is_named_in_its_place(run_dir: Path) -> None:
    (image,) = (run_dir / "samples/images").iterdir()
    image.write_bytes(b"gone")
    text = Tags(write_report(run_dir).read_text()).text
    assert re.search(rf"{image.name}.*not a readable", text)


def test_samples_are_read_back_after_the_folder_and_the_data_moved(tmp_path: Path) -> None:
    picture = tmp_path / "data" / "a.png"
    picture.parent.mkdir()
    picture.write_bytes(png("blue"))
    write_samples(tmp_path / "run", "iter1/sft", [make_sample(Outcome.UNPARSEABLE, image=str(picture))])
    picture.unlink()
    (tmp_path / "run").rename(tmp_path / "moved")
    (sample,) = read_samples(tmp_path / "moved", "iter1/sft")
    assert (sample.outcome, sample.step, sample.problem.answer) == (Outcome.UNPARSEABLE, 25, "4")
    (image,) = sample.problem.images
    assert Path(str(image)).read_bytes() == png("blue")


def test_result_json_is_a_list_of_stages_with_exactly_these_keys(run_dir: Path) -> None:
    rows = json.loads((run_dir / "result.json").read_text())
    keys = ["iteration", "stage", "accuracy", "ci_low", "ci_high", "num_problems", "response_tokens", "seconds"]
    assert [list(row) for row in rows] == [keys] * 3
    assert [(row["iteration"], row["stage"], row["accuracy"]) for row in rows] == [(0, "base", 0.4), (1, "sft", 0.6), (1, "grpo", 0.9)]


def test_the_table_of_stages_is_aligned_text(run_dir: Path) -> None:
    assert stage_table(read_results(run_dir)).splitlines() == [
        "stage       accuracy  95 % interval  problems  tokens  time",
        "-----------------------------------------------------------",
        "iter0/base     40.0%  30.9% - 49.8%       100    15.0  1:15",
        "iter1/sft      60.0%  50.2% - 69.1%       100    15.0  1:15",
        "iter1/grpo     90.0%  82.6% - 94.5%       100    15.0  1:15",
    ]


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such run folder"):
        write_report(tmp_path / "absent")
