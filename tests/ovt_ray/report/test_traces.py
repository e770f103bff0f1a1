"""The report shows what became of every chain, and hostile text in it stays text."""

import io
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from ovt_ray.core.config.stages import DistilConfig
from ovt_ray.core.types import AnswerKind, Outcome, Problem, Score
from ovt_ray.distil import select, write_traces
from ovt_ray.distillation.chains import Chains
from ovt_ray.report.page import write_report

HOSTILE = '</pre><script>alert(1)</script><img src=x onerror="alert(2)">'


class Page(HTMLParser):
    """Collects elements, and the cells of tables row by row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.is_in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.is_in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.is_in_cell = self.is_in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.is_in_cell:
            self.rows[-1][-1] += data.strip()


def chains(name: str, source: str, *rows: tuple[str, Outcome]) -> Chains:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), {"one": "red"}.get(name, "blue")).save(file, "PNG")
    problem = Problem(id=name, question=f"{name}? {HOSTILE}", images=(file.getvalue(),), answer="4", kind=AnswerKind.NUMBER, source=source)
    scores = tuple(Score(value=0.0, outcome=outcome, extracted=None) for _, outcome in rows)
    return Chains(problem=problem, responses=tuple(text for text, _ in rows), scores=scores)


def write_run(folder: Path) -> None:
    good, right = "<think> a </think> <answer> 4 </answer>", Outcome.CORRECT
    asked = [
        chains("one", "<i>a</i>", (good, right), (f"{good} {HOSTILE}", right), (good, Outcome.WRONG)),
        chains("two", "b", (good, right), ("<think></think> <answer> 4 </answer>", right), (good, right)),
        chains("three", "b", (good, Outcome.UNPARSEABLE)),
    ]
    selection = select(asked, DistilConfig(source="policy", num_problems=3, num_chains=3), [], 0)
    write_traces(folder / "iter1" / "distil", selection)


def test_the_table_counts_every_chain_by_source(tmp_path: Path) -> None:
    write_run(tmp_path)
    page = Page(write_report(tmp_path).read_text())
    table = page.rows[
        page.rows.index(["source", "asked", "answered", "unparseable", "correct", "format", "thought", "not chosen", "traces"]) :
    ]
    assert table[1:4] == [
        ["all", "9", "7", "1", "5", "1", "1", "1", "2"],
        ["<i>a</i>", "3", "3", "0", "2", "1", "0", "0", "1"],
        ["b", "6", "4", "1", "3", "0", "1", "1", "1"],
    ]


def test_dropped_chains_are_shown_with_picture_and_reason_and_run_nothing(tmp_path: Path) -> None:
    write_run(tmp_path)
    content = write_report(tmp_path).read_text()
    page = Page(content)
    assert "<script" not in content and "<i>a" not in content
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "dropped by format: there is text before <think> or after </answer>" in page.text
    assert "dropped by thought: nothing stands in its thinking" in page.text
    pictures = [attributes["src"] or "" for tag, attributes in page.elements if tag == "img"]
    assert len(pictures) == 3 and all(source.startswith("data:image/png;base64,") for source in pictures)  # curves and two problems
