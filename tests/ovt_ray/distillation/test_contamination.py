"""A problem that is measured on is recognised by picture or question; one that only resembles it is not."""

import io
import itertools
from pathlib import Path
from random import Random

import pytest
from PIL import Image, ImageDraw

from ovt_ray.core.config.stages import DistilConfig
from ovt_ray.core.types import AnswerKind, Outcome, Problem, Score
from ovt_ray.distil import Selection, select
from ovt_ray.distillation.chains import Chains
from ovt_ray.distillation.contamination import EvaluationSet
from ovt_ray.distillation.pictures import look, look_alike, pixel_digest
from ovt_ray.world import world_problems
from ovt_ray.world.figures import BarChart, random_chart, random_grid

TABLES = Path(__file__).parents[4] / "shared/data/tabmwp/data/tabmwp/tables"


def encoded(image: Image.Image, format: str = "PNG", quality: int = 75, scale: float = 1.0) -> bytes:
    file = io.BytesIO()
    size = (round(image.width * scale), round(image.height * scale))
    image.resize(size, Image.Resampling.BICUBIC).save(file, format, quality=quality)
    return file.getvalue()


def drawing(number: int, size: tuple[int, int] = (400, 300)) -> Image.Image:
    """A polygon as a geometry problem has one, another for each number."""
    image, rng = Image.new("RGB", size, "white"), Random(number)
    corners = [(rng.randrange(size[0]), rng.randrange(size[1])) for _ in range(4)]
    ImageDraw.Draw(image).polygon(corners, outline="black", width=3)
    return image


def problem(name: str, question: str, *images: bytes, answer: str = "4") -> Problem:
    return Problem(id=name, question=question, images=images, answer=answer, kind=AnswerKind.NUMBER)


def overlap(ours: Problem, *theirs: Problem) -> str | None:
    return EvaluationSet(theirs).overlap(ours)


FIND = "Find x in the drawing."


def test_the_same_pixels_are_the_same_picture_in_whatever_file() -> None:
    held_out = problem("h", FIND, encoded(drawing(1), "BMP"))
    assert overlap(problem("p", "What is the area?", encoded(drawing(1))), held_out) == "its picture is that of evaluation problem 'h'"
    assert overlap(problem("p", "What is the area?", encoded(drawing(2))), held_out) is None


def test_a_picture_of_one_colour_is_nobodys() -> None:
    blank = encoded(Image.new("RGB", (60, 40), "black"))
    assert overlap(problem("p", "How high is the tower?", blank), problem("h", "Which year was it?", blank)) is None


def test_a_scaled_picture_counts_with_a_similar_question_only() -> None:
    held_out = problem("h", FIND, encoded(drawing(1)))
    smaller = encoded(drawing(1), "JPEG", scale=0.5)
    assert (
        overlap(problem("p", FIND, smaller), held_out) == "its question is 100% that of evaluation problem 'h', and its picture looks alike"
    )
    assert overlap(problem("p", "What is the area of it?", smaller), held_out) is None
    assert overlap(problem("p", FIND, encoded(drawing(2))), held_out) is None


def test_a_question_of_text_alone_is_recognised_unless_its_numbers_differ() -> None:
    held_out = problem("h", "What is 17 + 25, rounded to the nearest ten?")
    found = "its question is 100% that of evaluation problem 'h', with the same numbers"
    assert overlap(problem("p", "what is  17 + 25, rounded to the nearest TEN?"), held_out) == found
    assert overlap(problem("p", "What is 17 + 26, rounded to the nearest ten?"), held_out) is None
    assert overlap(problem("p", "Who wrote the book?"), held_out) is None


LONG = "A baker sells bread in a small town by the sea. The picture shows how many loaves were sold on each of 7 days. How many on {day}?"


def test_a_long_question_with_its_answer_is_recognised_beside_another_picture() -> None:
    held_out = problem("h", LONG.format(day="Monday"), encoded(drawing(1)), answer="12")
    found = "its question is 100% that of evaluation problem 'h', with the same numbers and answer"
    assert overlap(problem("p", LONG.format(day="Monday"), encoded(drawing(2)), answer="12"), held_out) == found
    assert overlap(problem("p", LONG.format(day="Monday"), encoded(drawing(2)), answer="13"), held_out) is None


def test_a_long_template_without_a_number_is_asked_of_many_pictures() -> None:
    question = (
        "Is there a big shiny thing that is behind the small red metal cube and to the left of the matte ball that is in front of the tiny "
        "green rubber cylinder?"
    )
    held_out = problem("h", question, encoded(drawing(1)), answer="yes")
    assert overlap(problem("p", question, encoded(drawing(2)), answer="yes"), held_out) is None
    told = "its question is 100% that of evaluation problem 'h', with the same numbers and answer"
    assert overlap(problem("p", question, answer="yes"), held_out) == told, "without a picture of its own it is the same text"


def test_figures_of_the_embedded_world_that_differ_by_little_are_different() -> None:
    rng = Random(0)
    figures = {figure.words: figure for figure in (draw(rng) for draw in (random_chart, random_grid) for _ in range(60))}
    low, high = (BarChart((("red", 1), ("blue", height), ("green", 3))) for height in (5, 6))
    pictures = [figure.draw() for figure in (*figures.values(), low, high)]
    assert not any(look_alike(look(first), look(second)) for first, second in itertools.combinations(pictures, 2))
    assert len({pixel_digest(picture) for picture in pictures}) == len(pictures)


def test_nothing_of_the_embedded_world_that_is_learnt_from_is_measured_on(tmp_path: Path) -> None:
    evaluation = EvaluationSet(world_problems("test", 150, 0, tmp_path))
    assert [problem.id for problem in world_problems("train", 300, 1, tmp_path) if evaluation.overlap(problem)] == []
    assert all(evaluation.overlap(problem) for problem in world_problems("test", 20, 0, tmp_path))


def test_scaled_and_encoded_tables_are_recognised_and_others_are_not() -> None:
    if not TABLES.is_dir():
        pytest.skip("TabMWP is not at ../shared/data/tabmwp")
    pictures = [Image.open(path).convert("RGB") for path in sorted(TABLES.glob("*.png"))[:40]]
    for picture in pictures:
        for scale in (0.5, 1.0, 1.5):
            assert look_alike(look(picture), look(Image.open(io.BytesIO(encoded(picture, "JPEG", scale=scale))).convert("RGB")))
    pairs = itertools.combinations(pictures, 2)
    assert sum(look_alike(look(first), look(second)) for first, second in pairs) == 0


def right(asked: Problem, *thoughts: str) -> Chains:
    score = Score(value=1.0, outcome=Outcome.CORRECT, extracted=asked.answer)
    responses = tuple(f"<think> {thought} </think> <answer> {asked.answer} </answer>" for thought in thoughts)
    return Chains(problem=asked, responses=responses, scores=(score,) * len(responses))


def chosen(asked: list[Chains], evaluation: list[Problem], **filters: object) -> Selection:
    section = {"source": "policy", "num_problems": len(asked), "num_chains": 2, "select": "all", "filters": filters}
    return select(asked, DistilConfig.model_validate(section), evaluation, 0)


def test_all_chains_of_a_contaminated_problem_are_dropped_unless_told_otherwise() -> None:
    held_out = problem("h", FIND, encoded(drawing(1)))
    asked = [
        right(problem("p", FIND, encoded(drawing(1))), "two sides", "an angle"),
        right(problem("q", FIND, encoded(drawing(2))), "a", "b"),
    ]
    selection = chosen(asked, [held_out])
    assert [(drop.candidate.problem.id, drop.candidate.index, drop.filter) for drop in selection.drops] == [
        ("p", 0, "contamination"),
        ("p", 1, "contamination"),
    ]
    assert chosen(asked, [held_out], contamination=False).drops == ()


STEPS = "first we read the height of each of the bars and then we add them up to get the sum of " + " ".join(map(str, range(40)))


def test_a_chain_that_says_what_a_chosen_one_says_is_dropped() -> None:
    picture, other = encoded(drawing(1)), encoded(drawing(2))
    asked = [
        right(problem("a", FIND, picture), STEPS, STEPS.upper()),
        right(problem("same", FIND, picture), STEPS + " .", STEPS[::-1]),
        right(problem("other picture", FIND, other), STEPS),
        right(problem("other answer", FIND, picture, answer="5"), STEPS),
        right(problem("other question", "What is the length of the side?", picture), STEPS),
    ]
    selection = chosen(asked, [])
    assert [(drop.candidate.problem.id, drop.candidate.index, drop.filter, drop.reason) for drop in selection.drops] == [
        ("a", 1, "duplicate", "100% that of chain 0 of problem 'a'"),
        ("same", 0, "duplicate", "94% that of chain 0 of problem 'a'"),  # 72 of 77 runs
    ]
    exact = chosen(asked, [], max_similarity=1)
    assert [(drop.candidate.problem.id, drop.candidate.index) for drop in exact.drops] == [("a", 1)]
    assert chosen(asked, [], max_similarity=None).drops == ()
