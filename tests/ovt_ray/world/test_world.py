"""The embedded world: its figures, questions, teacher, tokenizer and model folder. No Ray, no engine."""

import hashlib
import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ovt_ray.core.types import AnswerKind, Problem
from ovt_ray.world import ProceduralReasoner, base_traces, build_tiny_model, world_problems
from ovt_ray.world.corpus import DESCRIBE
from ovt_ray.world.figures import BarChart, ShapeGrid, random_chart, random_grid, read_figure, split_of
from ovt_ray.world.questions import KINDS, parse_words
from ovt_ray.world.teacher import picture_caption
from ovt_ray.world.teacher_corpus import caption_corpus, reasoning_corpus
from ovt_ray.world.tokenizer import SPECIALS, TAGS, build_tokenizer

TOKENIZER = build_tokenizer()


def pictures(problems: list[Problem]) -> set[str]:
    return {hashlib.sha256(Path(image).read_bytes()).hexdigest() for problem in problems for image in problem.images}


def solve_from_pixels(problem: Problem) -> str:
    """Answer by counting pixels of known colours: shares no code with the world's reader, solver or templates."""
    palette = {(220, 40, 40): "red", (40, 80, 220): "blue", (40, 170, 70): "green", (240, 200, 40): "yellow", (30, 30, 30): "black"}
    picture = Image.open(problem.images[0]).convert("RGB")
    words = re.findall(r"\w+", problem.question)
    named = [word for word in words if word in palette.values()]
    if picture.width == 84:
        area = Counter(palette.get(picture.getpixel((x, y))) for x in range(84) for y in range(56))
        height = {colour: area[colour] // (20 * 8) for colour in palette.values() if area[colour]}
        high, low = max(height.values()), min(height.values())
        by_word = {
            "How high": lambda: height[named[0]],
            "What is": lambda: sum(height[colour] for colour in named or height),
            "How much": lambda: height[named[0]] - height[named[1]] if named else high - low,
            "Is": lambda: "yes" if height[named[0]] > height[named[1]] else "no",
            "Which bar": lambda: next(colour for colour in height if height[colour] == high),
        }
        return str(next(answer for start, answer in by_word.items() if problem.question.startswith(start))())
    cells = []
    for x, y in ((0, 0), (28, 0), (0, 28), (28, 28)):
        seen = Counter(palette.get(picture.getpixel((x + i, y + j))) for i in range(28) for j in range(28))
        colour, num_pixels = next((name, count) for name, count in seen.most_common() if name)
        cells.append((colour, "square" if num_pixels == 400 else "circle" if num_pixels > 280 else "triangle"))
    shape = next((word for word in words if word in ("circle", "square", "triangle")), None)
    if words[0] == "How":
        return str(sum(cell[0] in named or cell[1] == shape for cell in cells))
    if words[0] == "Is":
        return "yes" if named[0] in dict(cells) else "no"
    return next(cell[0] for cell in cells if cell[1] == shape) if shape else next(cell[1] for cell in cells if cell[0] == named[0])


def test_problems_are_the_same_for_the_same_seed_and_others_for_another(tmp_path: Path) -> None:
    first = world_problems("validation", 30, 7, tmp_path / "a")
    again = world_problems("validation", 30, 7, tmp_path / "b")
    assert [(p.question, p.answer, p.choices, Path(p.images[0]).name) for p in first] == [
        (p.question, p.answer, p.choices, Path(p.images[0]).name) for p in again
    ]
    assert [Path(p.images[0]).read_bytes() for p in first] == [Path(p.images[0]).read_bytes() for p in again]
    other = world_problems("validation", 30, 8, tmp_path / "a")
    assert [p.question for p in other] != [p.question for p in first]


def test_no_held_out_picture_is_ever_trained_on(tmp_path: Path) -> None:
    trained = pictures(world_problems("train", 600, 0, tmp_path, hard=True)) | pictures(
        [problem for problem, _ in base_traces(1500, 0, tmp_path)]
    )
    validation = pictures(world_problems("validation", 300, 0, tmp_path))
    test = pictures(world_problems("test", 300, 0, tmp_path))
    assert len(trained) > 1000
    assert not trained & validation and not trained & test and not validation & test


def test_gold_answers_agree_with_an_independent_reading_of_the_pixels(tmp_path: Path) -> None:
    problems = world_problems("test", 400, 3, tmp_path, hard=True)
    assert {problem.source for problem in problems} == {kind.name for kind in KINDS}
    wrong = [(problem.question, problem.answer) for problem in problems if solve_from_pixels(problem) != problem.answer]
    assert wrong == []


def test_a_drawn_chart_has_its_bars_where_the_eye_expects_them() -> None:
    picture = BarChart((("red", 4), ("blue", 2), ("green", 6))).draw()
    assert picture.size == (84, 56)
    assert picture.getpixel((14, 54 - 4 * 8)) == (220, 40, 40) and picture.getpixel((14, 54 - 4 * 8 - 1)) == (255, 255, 255)
    assert picture.getpixel((42, 53)) == (40, 80, 220) and picture.getpixel((70, 54 - 6 * 8)) == (40, 170, 70)


def test_answers_are_balanced_so_that_no_constant_answer_pays(tmp_path: Path) -> None:
    problems = world_problems("train", 3000, 1, tmp_path)
    yes = Counter(problem.answer for problem in problems if problem.kind is AnswerKind.YESNO)
    assert 0.42 < yes["yes"] / yes.total() < 0.58
    places = Counter(problem.choices.index(problem.answer) for problem in problems if problem.kind is AnswerKind.CHOICE)
    assert max(places.values()) < 0.4 * places.total()
    assert Counter(problem.answer for problem in problems).most_common(1)[0][1] < 0.2 * len(problems)
    assert {problem.kind for problem in problems} == {AnswerKind.NUMBER, AnswerKind.TEXT, AnswerKind.YESNO, AnswerKind.CHOICE}


def test_the_hard_mixture_holds_more_hard_kinds(tmp_path: Path) -> None:
    hard = {kind.name for kind in KINDS if kind.is_hard}
    easy_share, hard_share = (
        sum(problem.source in hard for problem in world_problems("train", 400, 0, tmp_path, hard=flag)) / 400 for flag in (False, True)
    )
    assert easy_share < 0.25 < 0.4 < hard_share


def test_a_figure_is_read_back_from_its_pixels_as_it_was_drawn(tmp_path: Path) -> None:
    rng = Random(0)
    figures = [draw(rng) for draw in (random_chart, random_grid) for _ in range(100)]
    assert [read_figure(figure.draw()) for figure in figures] == figures
    ShapeGrid((("red", "circle"), ("blue", "square"), ("red", "triangle"), ("black", "circle"))).draw().save(tmp_path / "grid.png")
    problem = Problem(id="g", question=DESCRIBE, images=(str(tmp_path / "grid.png"),), answer="-", kind=AnswerKind.TEXT)
    assert picture_caption(problem) == "shapes : red circle . blue square . red triangle . black circle ."


def test_captions_to_learn_from_misread_some_pictures_and_always_the_same_ones(tmp_path: Path) -> None:
    rows = caption_corpus(300, 0, tmp_path)
    assert rows == caption_corpus(300, 0, tmp_path)
    assert 0.02 < sum(text != picture_caption(problem) for problem, text in rows) / 300 < 0.2


def test_a_reasoner_learns_from_questions_and_captions_about_training_figures_without_pictures() -> None:
    rows = reasoning_corpus(400, 0)
    assert rows == reasoning_corpus(400, 0) and not any(problem.images for problem, _, _ in rows)
    assert {problem.source for problem, _, _ in rows} == {kind.name for kind in KINDS}
    read = [parse_words(words) for _, words, _ in rows]
    assert sum(figure is not None and split_of(figure) == "train" for figure in read) > 360, "but for those that are misread"
    assert 60 < sum("maybe" in chain for *_, chain in rows) < 160


def test_a_reasoner_knows_only_what_the_caption_says() -> None:
    problem = Problem(id="p", question="What is red plus blue?", images=(), answer="99", kind=AnswerKind.NUMBER)
    chains = ProceduralReasoner(0).reason([problem], ["bars : red 4 . blue 2 . green 5 ."], 400)[0]
    careful = "<think> red 4 . blue 2 . 4 + 2 = 6 .</think> <answer> 6</answer>"
    assert careful in chains and "<think> maybe 6</think> <answer> 6</answer>" in chains
    assert any("Wait, red 4" in chain for chain in chains)
    assert not any("99" in chain for chain in chains)
    right = sum(chain.endswith("<answer> 6</answer>") for chain in chains if "maybe" not in chain)
    lucky = sum(chain.endswith("<answer> 6</answer>") for chain in chains if "maybe" in chain)
    num_guesses = sum("maybe" in chain for chain in chains)
    assert lucky / num_guesses < 0.88 < 0.92 < right / (len(chains) - num_guesses)


def test_questions_of_another_world_are_guessed_at_and_raise_nothing() -> None:
    choices = ("tea", "milk")
    problem = Problem(id="x", question="What is sold?", images=(), answer="tea", kind=AnswerKind.CHOICE, choices=choices)
    chains = ProceduralReasoner(0).reason([problem], ["a shop"], 8)[0]
    assert {re.findall("<answer> (.*)</answer>", chain)[0] for chain in chains} == {"tea", "milk"}


def test_base_traces_never_reason_over_a_picture(tmp_path: Path) -> None:
    traces = base_traces(500, 2, tmp_path)
    assert traces[:50] == base_traces(500, 2, tmp_path)[:50]
    assert any("<think>" in response for _, response in traces)
    thoughts = {response.partition("</think>")[0] for problem, response in traces if problem.images and "<think>" in response}
    assert thoughts == {"<think> "}, "an answer at once, in the format, without a thought"


@given(st.text())
def test_any_text_survives_the_tokenizer(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert TOKENIZER.decode(ids) == text


def test_tags_are_single_ordinary_tokens_and_specials_single_special_ones() -> None:
    for token in (*TAGS, *SPECIALS):
        assert len(TOKENIZER(token, add_special_tokens=False)["input_ids"]) == 1
    ids = TOKENIZER("<think> red</think> <answer> red</answer><|im_end|>", add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "<think> red</think> <answer> red</answer>"
    assert TOKENIZER.eos_token_id == ids[-1] == len(TOKENIZER) - len(SPECIALS) + SPECIALS.index("<|im_end|>")


def test_words_of_the_world_are_one_token_each() -> None:
    ids = TOKENIZER(" red circle . 10 + 2 = 12 maybe triangle yellow highest", add_special_tokens=False)["input_ids"]
    assert len(ids) == 12


@pytest.mark.heavy
def test_the_model_folder_is_the_same_for_the_same_seed_and_loads_with_auto_classes(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    build_tiny_model(tmp_path / "again", seed=0)
    build_tiny_model(tmp_path / "other", seed=1)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tiny_model, tmp_path / "again", tmp_path / "other")]
    assert weights[0] == weights[1] != weights[2]
    model, processor = AutoModelForImageTextToText.from_pretrained(tiny_model), AutoProcessor.from_pretrained(tiny_model)
    assert 0.5e6 < sum(parameter.numel() for parameter in model.parameters()) < 2e6
    assert type(processor).__name__ == "Qwen2_5_VLProcessor"
    assert model.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")


@pytest.mark.parametrize(("width", "height", "num_tokens"), [(84, 56, 6), (56, 56, 4), (28, 28, 1)])
def test_a_picture_takes_one_token_for_each_28_pixels_squared(tiny_model: Path, width: int, height: int, num_tokens: int) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(tiny_model)
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How high is red?"}]}
    text = processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    ids = processor(text=[text], images=[Image.new("RGB", (width, height))], return_tensors="pt")["input_ids"][0].tolist()
    assert ids.count(processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")) == num_tokens
    assert text == ("<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>How high is red?<|im_end|><|im_start|>assistant")
