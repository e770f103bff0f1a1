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

from ovt_ray.types import AnswerKind, Problem
from ovt_ray.world import ProceduralCaptioner, ProceduralReasoner, base_traces, build_tiny_model, world_problems
from ovt_ray.world.corpus import DESCRIBE
from ovt_ray.world.figures import BarChart, Cards, random_chart, random_cards, read_figure
from ovt_ray.world.questions import KINDS
from ovt_ray.world.tokenizer import SPECIALS, TAGS, build_tokenizer

TOKENIZER = build_tokenizer()


def pictures(problems: list[Problem]) -> set[str]:
    return {hashlib.sha256(Path(image).read_bytes()).hexdigest() for problem in problems for image in problem.images}


PALETTE = {(220, 40, 40): "red", (40, 80, 220): "blue", (40, 170, 70): "green", (240, 200, 40): "yellow", (30, 30, 30): "black"}


def solve_from_pixels(problem: Problem) -> str:
    """Answer by counting pixels of known colours: shares no code with the world's reader, solver or templates."""
    picture = Image.open(problem.images[0]).convert("RGB")
    area = Counter(PALETTE.get(picture.getpixel((x, y))) for x in range(84) for y in range(56))
    colours = [colour for colour in PALETTE.values() if area[colour]]
    stands_on_floor = any(picture.getpixel((x, 53)) in PALETTE for x in range(84))
    number, shape = {colour: area[colour] // (20 * 8) for colour in colours}, {}
    if not stands_on_floor:
        number = {colour: count_blobs(picture, colour) - 1 for colour in colours}
        upper = Counter(PALETTE.get(picture.getpixel((x, y))) for x in range(84) for y in range(28))
        shape = {colour: "square" if upper[colour] == 400 else "circle" if upper[colour] > 280 else "triangle" for colour in colours}
    words = re.findall(r"\w+", problem.question)
    named = [word for word in words if word in colours]
    high, low = max(number.values()), min(number.values())
    asked_shape = next((word for word in words if word in ("circle", "square", "triangle")), None)
    by_start = {
        "How high": lambda: number[named[0]],
        "How many": lambda: sum(number[colour] for colour in named or colours),
        "What is": lambda: sum(number[colour] for colour in named or colours),
        "How much": lambda: number[named[0]] - number[named[1]],
        "How far": lambda: high - low,
        "Has": lambda: "yes" if number[named[0]] > number[named[1]] else "no",
        "Is": lambda: "yes" if number[named[0]] > number[named[1]] else "no",
        "Which bar": lambda: next(colour for colour in colours if number[colour] == high),
        "Which shape": lambda: shape[named[0]],
        "What colour": lambda: next(colour for colour in colours if shape[colour] == asked_shape),
    }
    return str(next(answer for start, answer in by_start.items() if problem.question.startswith(start))())


def count_blobs(picture: Image.Image, colour: str) -> int:
    """Count groups of touching pixels of one colour by flood filling them."""
    left = {(x, y) for x in range(84) for y in range(56) if PALETTE.get(picture.getpixel((x, y))) == colour}
    num_blobs = 0
    while left:
        num_blobs += 1
        edge = [left.pop()]
        while edge:
            x, y = edge.pop()
            near = {(x + i, y + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            edge.extend(near)
    return num_blobs


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
    assert 0.45 < yes["yes"] / yes.total() < 0.55
    places = Counter(problem.choices.index(problem.answer) for problem in problems if problem.kind is AnswerKind.CHOICE)
    assert max(places.values()) < 0.4 * places.total()
    assert Counter(problem.answer for problem in problems).most_common(1)[0][1] < 0.2 * len(problems)
    assert {problem.kind for problem in problems} == set(AnswerKind)


def test_the_hard_mixture_holds_more_hard_kinds(tmp_path: Path) -> None:
    hard = {kind.name for kind in KINDS if kind.is_hard}
    easy_share, hard_share = (
        sum(problem.source in hard for problem in world_problems("train", 400, 0, tmp_path, hard=flag)) / 400 for flag in (False, True)
    )
    assert easy_share < 0.25 < 0.4 < hard_share


def test_a_captioner_without_noise_reads_back_what_was_drawn(tmp_path: Path) -> None:
    rng = Random(0)
    figures = [draw(rng) for draw in (random_chart, random_cards) for _ in range(100)]
    assert [read_figure(figure.draw()) for figure in figures] == figures
    Cards((("red", "circle", 4), ("blue", "square", 1), ("black", "triangle", 6))).draw().save(tmp_path / "cards.png")
    problem = Problem(id="g", question=DESCRIBE, images=(str(tmp_path / "cards.png"),), answer="-", kind=AnswerKind.TEXT)
    assert ProceduralCaptioner(0, misread=0).describe([problem]) == ["cards : red circle 4 . blue square 1 . black triangle 6 ."]


def test_a_captioner_misreads_some_pictures_and_always_the_same_ones(tmp_path: Path) -> None:
    problems = world_problems("train", 300, 0, tmp_path)
    true, noisy = ProceduralCaptioner(0, misread=0).describe(problems), ProceduralCaptioner(0).describe(problems)
    assert noisy == ProceduralCaptioner(0).describe(problems) != ProceduralCaptioner(1).describe(problems)
    assert 0.02 < sum(a != b for a, b in zip(true, noisy, strict=True)) / 300 < 0.3


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
    assert lucky / num_guesses < 0.8 < 0.9 < right / (len(chains) - num_guesses)


def test_pictures_of_another_world_are_guessed_at_and_raise_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (120, 80), (1, 2, 3)).save(tmp_path / "photo.png")
    problem = Problem(
        id="x",
        question="What is sold?",
        images=(str(tmp_path / "photo.png"),),
        answer="tea",
        kind=AnswerKind.CHOICE,
        choices=("tea", "milk"),
    )
    captions = ProceduralCaptioner(0).describe([problem])
    chains = ProceduralReasoner(0).reason([problem], captions, 8)[0]
    assert {re.findall("<answer> (.*)</answer>", chain)[0] for chain in chains} == {"tea", "milk"}


def test_base_traces_never_reason_over_a_picture(tmp_path: Path) -> None:
    traces = base_traces(500, 2, tmp_path)
    assert traces[:50] == base_traces(500, 2, tmp_path)[:50]
    assert any("<think>" in response for _, response in traces)
    assert not any("<think>" in response for problem, response in traces if problem.images)


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
    ids = TOKENIZER(" red circle . 10 + 5 = 15 maybe triangle yellow highest", add_special_tokens=False)["input_ids"]
    assert len(ids) == 12


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
