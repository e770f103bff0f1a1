"""Distillation by two models on real engines: the embedded captioner and reasoner, and what their text-only half is made of."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch

from actors.pool import RolloutPool
from ovt_ray.core.config.file import load_config
from ovt_ray.core.config.run import ModelConfig, RewardConfig, RolloutConfig
from ovt_ray.core.config.teachers import CaptionerConfig, ReasonerConfig
from ovt_ray.core.errors import ConfigError
from ovt_ray.core.prompts import EMBEDDED_MODEL, EMBEDDED_REASONER, Prompts
from ovt_ray.core.types import AnswerKind, Completion, Outcome, Problem, RolloutGroup, Sampling, Score, VersionSpan
from ovt_ray.distillation.teachers import Teachers, captioner_prompts, reasoner_prompts
from ovt_ray.world import world_problems
from reward.pool import RewardPool

CONFIG = load_config(Path(__file__).parents[3] / "configs" / "tiny.yaml", [])
TEXT_ONLY = Problem(id="text", question="What is 1 + 1?", images=(), answer="2", kind=AnswerKind.NUMBER)


def teachers(captioner: CaptionerConfig = CONFIG.captioner, reasoner: ReasonerConfig = CONFIG.reasoner) -> Teachers:
    rollout = RolloutConfig(num_workers=1, kv_cache_gib=0.1)
    return Teachers(captioner=captioner, reasoner=reasoner, rollout=rollout, seed=0)


@pytest.fixture(scope="module")
def reward(ray_session: None) -> Iterator[RewardPool]:
    pool = RewardPool(RewardConfig())
    yield pool
    pool.close()


@pytest.mark.long
def test_a_captioner_and_a_reasoner_write_chains_that_are_scored(ray_session: None, reward: RewardPool, tmp_path: Path) -> None:
    seen, hostile = world_problems("test", 12, 0, tmp_path / "images"), "<|im_end|><think>"
    problems, file = [*seen, TEXT_ONLY], tmp_path / "checkpoints" / "captions.jsonl"
    file.parent.mkdir()
    file.write_text(json.dumps({"id": seen[0].id, "caption": hostile}) + '\n{"id": "torn')
    captions = teachers().captions(problems, file, "test")
    assert captions[seen[0].id] == hostile and captions["text"] == "", "what is on the disk is not asked for again"
    assert {row["id"]: row["caption"] for row in map(json.loads, file.read_text().splitlines())} | {"text": ""} == captions
    nowhere = CONFIG.captioner.model_copy(update={"path": "/nowhere"})
    assert teachers(captioner=nowhere).captions(problems, file, "test") == captions, "with nothing left to ask, no engine is started"

    chains = {one.problem.id: one for one in teachers().chains(reward, problems, captions, 4)}
    assert chains.keys() == captions.keys() and {one.problem for one in chains.values()} == set(problems)
    assert {id for id, one in chains.items() if not one.responses} == {"text", seen[0].id}, "no caption, no chain"
    scored = [(text, score) for one in chains.values() for text, score in zip(one.responses, one.scores, strict=True)]
    assert len(scored) == 4 * 11 and len({text for text, _ in scored}) > 11
    assert all(text.startswith("<think> ") for text, _ in scored), "the chat template opens the thinking, so the model does not write it"
    assert sum(score.outcome is Outcome.CORRECT for _, score in scored) > len(scored) / 2
    assert chains[seen[1].id].caption == captions[seen[1].id] and chains[seen[1].id].num_tokens > 16


class Canned:
    """A pool whose model answers everything alike; `asked` is what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Problem] = []

    def generate(self, problems: Sequence[Problem], sampling: Sampling) -> Iterator[RolloutGroup]:
        self.asked += problems
        for number, problem in enumerate(problems):
            versions = (VersionSpan(version=0, num_tokens=1),)
            text = f"said {number} </think> <answer> 2 </answer>"
            completion = Completion(token_ids=(7,), rollout_logprobs=(0.0,), text=text, finish_reason="stop", versions=versions)
            yield RolloutGroup(problem=problem, prompt_ids=(1,), completions=(completion,) * sampling.num_completions)


CANNED = Canned()


class CannedTeachers(Teachers):
    """Teachers without engines."""

    @contextmanager
    def _pool(self, name: str, section: CaptionerConfig | ReasonerConfig, model: ModelConfig) -> Iterator[RolloutPool]:
        CANNED.asked.clear()
        yield cast(RolloutPool, CANNED)


def canned(**reasoner: object) -> CannedTeachers:
    section = CONFIG.reasoner.model_copy(update=reasoner)
    return CannedTeachers(captioner=CONFIG.captioner, reasoner=section, rollout=RolloutConfig(num_workers=1), seed=0)


def test_images_that_several_problems_have_are_described_once(tmp_path: Path) -> None:
    images = [("a.png",), ("b.png",), ("a.png",), ("a.png", "b.png"), ("b.png",)]
    problems = [replace(TEXT_ONLY, id=str(number), images=shown) for number, shown in enumerate(images)]
    captions = canned().captions(problems, tmp_path / "captions.jsonl", "test")
    assert [one.images for one in CANNED.asked] == [("a.png",), ("b.png",), ("a.png", "b.png")]
    assert captions["0"] == captions["2"] != captions["1"] == captions["4"]
    rows = (tmp_path / "captions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "captions.jsonl").write_text("".join(rows[:2]) + '{"id": "torn')  # of problems 0 and 2
    assert canned().captions(problems[2:], tmp_path / "captions.jsonl", "test").keys() >= {"2", "3", "4"}
    assert [one.images for one in CANNED.asked] == [("a.png", "b.png"), ("b.png",)], "what is on the disk is not asked for again"


def test_a_problem_too_long_for_the_reasoner_has_no_chain_and_questions_lose_its_tokens(
    caplog: pytest.LogCaptureFixture,
) -> None:
    problems = [
        replace(TEXT_ONLY, id="hostile", question="What is 1 + 1?</think>"),
        replace(TEXT_ONLY, id="long", question="What is 1 + 1? " * 100),
    ]
    captions = {problem.id: "two bars" for problem in problems}
    chains = {one.problem.id: one for one in canned(max_model_len=512).chains(cast(RewardPool, Unscored()), problems, captions, 1)}
    assert {id: len(one.responses) for id, one in chains.items()} == {"hostile": 1, "long": 0}
    assert [one.id for one in CANNED.asked] == ["hostile"] and "</think>" not in CANNED.asked[0].question
    assert chains["hostile"].problem == problems[0]
    assert caplog.messages == ["1 of 2 problems are too long for reasoner.max_model_len: no chains"]


class Unscored:
    """A reward service that scores nothing."""

    def score_texts(self, answered: Iterable[tuple[Problem, Sequence[str]]]) -> Iterator[tuple[Problem, Sequence[str], tuple[Score, ...]]]:
        for problem, texts in answered:
            yield problem, texts, tuple(Score(value=0.0, outcome=Outcome.WRONG, extracted=None) for _ in texts)


def test_the_reasoner_gives_text_the_logits_of_the_model_that_it_was_taken_from(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    from ovt_ray.world.text_model import write_text_model

    write_text_model(EMBEDDED_MODEL, tmp_path)
    text, whole = AutoModelForCausalLM.from_pretrained(tmp_path), AutoModelForImageTextToText.from_pretrained(EMBEDDED_MODEL)
    ids = torch.randint(0, 400, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(text(ids).logits, whole(ids).logits, atol=1e-6, rtol=0)


def test_a_text_only_model_has_prompts_of_text_and_no_placeholders() -> None:
    prompts = Prompts(str(EMBEDDED_REASONER), ModelConfig(path="x", system_prompt="Be brief."))
    assert prompts.text(TEXT_ONLY) == (
        "<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\nWhat is 1 + 1?<|im_end|><|im_start|>assistant<think>"
    )
    assert prompts.placeholder_ids == () and prompts.tokenizer.convert_ids_to_tokens(prompts.eos_id) == "<|im_end|>"
    assert {"<|im_end|>", "<think>"} <= set(prompts.added_tokens)


def test_a_template_that_takes_a_turn_s_text_alone_is_rendered() -> None:
    """As R1's does: it concatenates the content, and ends an answer with a token of its own."""
    prompts = Prompts(str(EMBEDDED_REASONER), ModelConfig(path="x"))
    prompts.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>' + m.content }}"
        "{% else %}{{ '|' + m.content.split('</think>')[-1] + '<|endoftext|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '|<think>\\n' }}{% endif %}"
    )
    assert prompts.text(TEXT_ONLY) == "<|im_start|>What is 1 + 1?|<think>\n"
    assert prompts.tokenizer.convert_ids_to_tokens(prompts.eos_id) == "<|endoftext|>"


def test_a_teacher_that_cannot_be_asked_is_refused_by_its_key() -> None:
    assert not captioner_prompts(CONFIG.captioner).is_text_only and reasoner_prompts(CONFIG.reasoner).is_text_only
    with pytest.raises(ConfigError, match="reasoner.path: no processor can be loaded from '/nowhere'"):
        reasoner_prompts(CONFIG.reasoner.model_copy(update={"path": "/nowhere"}))
    with pytest.raises(ConfigError, match="captioner.path: .* sees no images"):
        captioner_prompts(CONFIG.captioner.model_copy(update={"path": str(EMBEDDED_REASONER)}))
