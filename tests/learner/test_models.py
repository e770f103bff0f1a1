"""Contract: whatever the family and the layout, the learner computes what transformers' own model computes on one sequence at a time.

The plain passes share no code with the learner: transformers' attention, positions and logits, and a softmax over the allowed ids.
"""

import inspect
import io
import json
import math
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from learner.adapters import add_adapters
from learner.batching import collate
from learner.model import TokenPositions, TokenScorer, load_model
from learner.packing import micro_batches
from learner.rendering import PromptCache
from learner.requirements import check_model
from learner.weights import adapter_buckets, base_buckets, weight_buckets
from ovt_ray.core.config.run import Layout, LoraConfig, ModelConfig
from ovt_ray.core.errors import ConfigError, DataError
from ovt_ray.core.prompts import Prompts
from ovt_ray.core.types import AnswerKind, Problem, TrainSample
from tests.learner.plain_torch import GRPO, as_tensor, grpo_stage, learner_config, single_rank
from tests.learner.tiny_families import CAUSAL_FAMILIES, FAMILIES

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("compiled_operators")]

TEMPERATURE = 0.7
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    name: ("shared_prompts", "packed", "padded") if name in CAUSAL_FAMILIES else ("padded",) for name in FAMILIES
}
CASES = [(name, layout) for name, layouts in LAYOUTS.items() for layout in layouts]


def picture(width: int, height: int, seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def problem(name: str, *images: bytes) -> Problem:
    return Problem(id=name, question=f"What is {name}?", images=images, answer="1", kind=AnswerKind.NUMBER)


PROBLEMS = {
    "no image": problem("no image"),
    "a wide image": problem("a wide image", picture(84, 40, 0)),
    "a high image": problem("a high image", picture(56, 112, 1)),
    "two images": problem("two images", picture(64, 64, 2), picture(96, 32, 3)),
    "none either": problem("none either"),
}
LENGTHS = {"no image": (5, 2), "a wide image": (4, 1, 7), "a high image": (3, 6), "two images": (8, 2, 3), "none either": (4,)}


def samples_of(name: str) -> list[TrainSample]:
    generator = np.random.default_rng(len(name))
    rows = [tuple(generator.integers(20, 400, size=length).tolist()) for length in LENGTHS[name]]
    return [TrainSample(problem=PROBLEMS[name], completion_ids=row) for row in rows]


SAMPLES = [sample for name in PROBLEMS for sample in samples_of(name)]
WEIGHTS = [torch.from_numpy(np.random.default_rng(n).normal(size=len(sample.completion_ids))).float() for n, sample in enumerate(SAMPLES)]
"""What each token's log-probability counts in the sum whose gradient is compared; of both signs."""


def plain_logprobs(model: nn.Module, prompts: Prompts, sample: TrainSample) -> Tensor:
    """(T,) of the completion's tokens, from a pass over this sequence alone."""
    inputs = prompts.inputs(sample.problem)
    ids = torch.tensor([[*inputs.prompt_ids, *sample.completion_ids]])
    is_image = (ids == model.config.image_token_id).long()
    types = {"mm_token_type_ids", "token_type_ids"} & set(inspect.signature(model.forward).parameters)
    logits = model(input_ids=ids, **inputs.images, **dict.fromkeys(types, is_image)).logits[0, len(inputs.prompt_ids) - 1 : -1]
    keep = torch.ones(logits.shape[-1], dtype=torch.bool)
    keep[list(prompts.placeholder_ids)] = False
    odds = torch.where(keep, torch.exp(logits / TEMPERATURE), 0.0)
    return torch.log(odds[range(len(sample.completion_ids)), list(sample.completion_ids)] / odds.sum(-1))


@dataclass
class Plain:
    """A family, and what transformers computes."""

    folder: Path
    prompts: Prompts
    logprobs: list[Tensor]
    gradient: dict[str, Tensor]
    """Of the weighted sum over all samples, by parameter; without those that no output depends on."""


def gradient_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp("families") / name for name in FAMILIES}
    for name, folder in made.items():
        FAMILIES[name](folder)
    return made


def prompts_of(folder: Path) -> Prompts:
    return Prompts(str(folder), ModelConfig(path=str(folder)))


@pytest.fixture(scope="module")
def plain_passes(folders: dict[str, Path]) -> Callable[[str, torch.dtype], Plain]:
    @cache
    def passes(name: str, dtype: torch.dtype) -> Plain:
        model, prompts = AutoModelForImageTextToText.from_pretrained(folders[name], dtype=dtype), prompts_of(folders[name])
        rows = [plain_logprobs(model, prompts, sample) for sample in SAMPLES]
        torch.cat([weights * row for weights, row in zip(WEIGHTS, rows, strict=True)]).sum().backward()
        return Plain(folders[name], prompts, [row.detach() for row in rows], gradient_of(model))

    return passes


def learner_passes(
    folder: Path, layout: Layout, numbers: Sequence[int], dtype: torch.dtype = torch.float32
) -> tuple[dict[int, Tensor], nn.Module]:
    """Return the log-probabilities of some samples, and the model with the gradient of their weighted sum, as a rank computes them."""
    model, prompts = load_model(str(folder), "float32", layout, None).to(dtype), prompts_of(folder)
    forbidden_ids = frozenset(prompts.placeholder_ids)
    scorer, rendered = TokenScorer(model, forbidden_ids, TEMPERATURE), PromptCache(prompts, TokenPositions(model))
    rows: dict[int, Tensor] = {}
    for blocks in micro_batches([rendered.block(number, SAMPLES[number]) for number in numbers], layout, budget=8192):
        batch = collate(blocks, layout, blank=rendered.blank, filler_id=prompts.eos_id, forbidden_ids=forbidden_ids)
        logprobs, _ = scorer(batch)
        indices = [index for block in blocks for index in block.indices]
        (logprobs * torch.cat([WEIGHTS[index] for index in indices])).sum().backward()
        rows.update(zip(indices, logprobs.detach().split([len(WEIGHTS[index]) for index in indices]), strict=True))
    return rows, model


def gaps_by_part(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Return how far two gradients are apart, as a share of the expected one's norm: of the whole, and of each part of the model."""
    parts: dict[str, list[str]] = defaultdict(list)
    for name in expected:
        parts["whole"].append(name)
        parts[".".join(name.split(".")[:3])].append(name)
    return {part: _norm([found[n] - expected[n] for n in names]) / _norm([expected[n] for n in names]) for part, names in parts.items()}


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.nn.utils.get_total_norm([tensor.double() for tensor in tensors]))


@pytest.mark.parametrize(("dtype", "bound", "gradient_bound"), [(torch.float32, 1e-5, 2e-6), (torch.float64, 2e-6, 1e-6)])
@pytest.mark.parametrize(("name", "layout"), CASES)
def test_log_probabilities_and_gradients_are_those_of_one_sequence_at_a_time(
    plain_passes: Callable[[str, torch.dtype], Plain], name: str, layout: Layout, dtype: torch.dtype, bound: float, gradient_bound: float
) -> None:
    """In float32 what is left is rounding: transformers' own gradient is up to 2e-6 from that of float64, as the learner's is."""
    plain = plain_passes(name, dtype)
    rows, model = learner_passes(plain.folder, layout, range(len(SAMPLES)), dtype)
    for number, expected in enumerate(plain.logprobs):
        assert rows[number].tolist() == pytest.approx(expected.tolist(), abs=bound), f"sample {number}"
    gaps = gaps_by_part(gradient_of(model), plain.gradient)
    print(f"{name} {layout} {dtype}: gradient {gaps['whole']:.1e}, worst part {max(gaps.values()):.1e}")
    assert max(gaps.values()) < gradient_bound, gaps


@pytest.mark.parametrize("name", FAMILIES)
def test_an_image_counts(folders: dict[str, Path], name: str) -> None:
    """Else all that is compared here could be wrong of images."""
    model, prompts, sample = AutoModelForImageTextToText.from_pretrained(folders[name]), prompts_of(folders[name]), SAMPLES[2]
    other = replace(sample.problem, images=(picture(84, 40, seed=9),))
    with torch.no_grad():
        first, second = (plain_logprobs(model, prompts, replace(sample, problem=shown)) for shown in (sample.problem, other))
    assert (first - second).abs().max() > 0.05


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_samples_without_images_give_every_parameter_a_gradient_and_the_vision_tower_zero(
    plain_passes: Callable[[str, torch.dtype], Plain], name: str, layout: Layout
) -> None:
    """ZeRO-3 ranks wait for each other at every parameter, whatever their samples hold."""
    plain = plain_passes(name, torch.float32)
    texts = [number for number, sample in enumerate(SAMPLES) if not sample.problem.images]
    rows, model = learner_passes(plain.folder, layout, texts)
    for number in texts:
        assert rows[number].tolist() == pytest.approx(plain.logprobs[number].tolist(), abs=1e-5)
    gradient = gradient_of(model)
    assert gradient.keys() == plain.gradient.keys()
    of_images = {name for name, values in gradient.items() if not values.any()}
    assert of_images == {name for name in gradient if not name.startswith(("model.language_model.", "lm_head."))}


def test_only_what_no_output_depends_on_has_no_gradient(
    plain_passes: Callable[[str, torch.dtype], Plain], folders: dict[str, Path]
) -> None:
    lacking = {}
    for name in FAMILIES:
        model = AutoModelForImageTextToText.from_pretrained(folders[name])
        lacking[name] = {key for key, _ in model.named_parameters()} - plain_passes(name, torch.float32).gradient.keys()
    unused = {"model.vision_tower.post_layernorm.weight", "model.vision_tower.post_layernorm.bias"}
    assert lacking == {**dict.fromkeys(FAMILIES, set()), "llava_onevision": unused}


PLACEHOLDERS = {
    "qwen2_5_vl": {"<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"},
    "qwen3_vl": {"<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"},
    "internvl": {"<img>", "</img>", "<IMG_CONTEXT>", "<video>"},
    "llava_onevision": {"<image>", "<video>"},
    "gemma3": {"<start_of_image>", "<image_soft_token>", "<end_of_image>"},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_placeholders_and_the_end_of_a_turn_are_those_of_the_family(folders: dict[str, Path], name: str) -> None:
    prompts = prompts_of(folders[name])
    assert set(prompts.tokenizer.convert_ids_to_tokens(prompts.placeholder_ids)) == PLACEHOLDERS[name]
    assert prompts.tokenizer.convert_ids_to_tokens(prompts.eos_id) == "<|im_end|>"
    assert prompts.tokenizer.eos_token == ("<|endoftext|>" if name == "gemma3" else "<|im_end|>")
    for token in PLACEHOLDERS[name]:
        with pytest.raises(DataError, match=re.escape(repr(token))):
            prompts.text(problem(f"the token {token}"))


def test_a_tokenizer_that_opens_a_text_does_not_open_it_twice(folders: dict[str, Path], tmp_path: Path) -> None:
    """As Gemma's does, whose template writes the opening token too."""
    shutil.copytree(folders["gemma3"], tmp_path / "opening")
    tokenizer = prompts_of(folders["gemma3"]).tokenizer
    opening = ("<|endoftext|>", tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{opening[0]} $A", special_tokens=[opening])
    tokenizer.save_pretrained(tmp_path / "opening")
    prompts = prompts_of(tmp_path / "opening")
    assert prompts.tokenizer("x")["input_ids"][0] == opening[1]
    assert prompts.inputs(PROBLEMS["no image"]).prompt_ids == tuple(prompts.engine_ids(PROBLEMS["no image"]))


def changed(folder: Path, made: Path, section: dict[str, Any]) -> str:
    """Return a folder with nothing but a config, some values of whose language model are others."""
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= section
    made.mkdir()
    (made / "config.json").write_text(json.dumps(config))
    return str(made)


@pytest.mark.parametrize("layout", ["shared_prompts", "packed", "padded"])
@pytest.mark.parametrize("name", CAUSAL_FAMILIES)
def test_plainly_causal_models_are_taken_in_every_layout(folders: dict[str, Path], name: str, layout: Layout) -> None:
    check_model(str(folders[name]), layout)


@pytest.mark.parametrize(
    ("name", "section", "reason"),
    [
        ("gemma3", {}, "has layers of sliding_attention"),
        ("gemma3", {"layer_types": ["full_attention"] * 2}, "lets the tokens of an image attend to one another"),
        ("internvl", {"model_type": "qwen3_next", "layer_types": ["linear_attention", "full_attention"]}, "has layers of linear_attention"),
        ("llava_onevision", {"model_type": "mistral", "sliding_window": 4096, "layer_types": None}, "attends to a window of 4096 tokens"),
    ],
)
def test_attention_that_is_not_plainly_causal_is_refused_but_in_rows(
    folders: dict[str, Path], tmp_path: Path, name: str, section: dict[str, Any], reason: str
) -> None:
    path = changed(folders[name], tmp_path / "changed", section)
    for layout in ("shared_prompts", "packed"):
        with pytest.raises(ConfigError, match=rf"learner.layout: '{layout}'.*changed'.*{reason}.*set learner.layout=padded"):
            check_model(path, layout)
    check_model(path, "padded")


@pytest.mark.parametrize(
    ("name", "section", "reason"),
    [
        ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping 30.0"),
        ("qwen2_5_vl", {"attention_dropout": 0.1}, "attention_dropout is 0.1"),
        ("llava_onevision", {"model_type": "gemma2", "final_logit_softcapping": None}, "attention scores are capped"),
        ("llava_onevision", {"model_type": "granite", "logits_scaling": 8.0}, "logits_scaling 8.0"),
    ],
)
def test_models_that_the_learner_would_compute_wrongly_are_refused_in_every_layout(
    folders: dict[str, Path], tmp_path: Path, name: str, section: dict[str, Any], reason: str
) -> None:
    path = changed(folders[name], tmp_path / "changed", section)
    for layout in ("shared_prompts", "packed", "padded"):
        with pytest.raises(ConfigError, match=rf"model.path: the learner cannot train .*{reason}"):
            check_model(path, layout)


def test_a_model_that_reads_no_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ConfigError, match="is a 'qwen2', no image-text-to-text model"):
        check_model(str(tmp_path), "padded")
    with pytest.raises(ConfigError, match="model.path: no configuration can be loaded from '.*absent'"):
        check_model(str(tmp_path / "absent"), "padded")


def test_an_output_layer_with_a_bias_is_refused(folders: dict[str, Path]) -> None:
    model = load_model(str(folders["internvl"]), "float32", "padded", None)
    model.lm_head = nn.Linear(model.lm_head.in_features, model.lm_head.out_features, bias=True)
    with pytest.raises(ConfigError, match="output layer of InternVLForConditionalGeneration has a bias"):
        TokenScorer(model, frozenset(), 1.0)


def test_a_stage_whose_model_does_not_fit_its_layout_does_not_begin(folders: dict[str, Path]) -> None:
    rank = single_rank(folders["gemma3"], learner_config(0))
    with pytest.raises(ConfigError, match="set learner.layout=padded"):
        rank.begin(grpo_stage(folders["gemma3"]))


@pytest.mark.parametrize("name", FAMILIES)
def test_base_and_adapters_are_published_by_the_names_of_the_folder_and_together_are_the_model(folders: dict[str, Path], name: str) -> None:
    model = load_model(str(folders[name]), "float32", "padded", None)
    add_adapters(model, LoraConfig(rank=2, alpha=6, parts=("vision_tower", "language_model")), seed=0)
    for of, parameter in model.named_parameters():
        if "lora_B" in of:
            parameter.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    [base] = base_buckets(model, keep=True)
    [whole] = weight_buckets(model, keep=True)
    [adapters] = adapter_buckets(model, keep=True)
    in_folder = load_file(folders[name] / "model.safetensors")
    assert base.keys() == in_folder.keys() and all(torch.equal(base[of], in_folder[of]) for of in base)
    for adapter in adapters:
        up, down = (as_tensor(sent) for sent in (adapter.up, adapter.down))
        base[adapter.name] = base[adapter.name] + (3 * up) @ down
    assert base.keys() == whole.keys() and all(torch.equal(base[of], whole[of]) for of in base)
    assert {of for of in base if not torch.equal(base[of], in_folder[of])} == {adapter.name for adapter in adapters}


@pytest.mark.parametrize("name", ["qwen3_vl", "internvl", "llava_onevision"])
def test_a_sharded_rank_trains_the_family_and_leaves_a_folder_of_the_same_names(
    folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    rank = single_rank(folders[name], learner_config(3, layout="shared_prompts", gradient_checkpointing=True))
    rank.begin(grpo_stage(folders[name], section=GRPO.model_copy(update={"temperature": TEMPERATURE})))
    samples = [replace(sample, advantage=float(weights[0])) for sample, weights in zip(SAMPLES, WEIGHTS, strict=True)]
    before = rank.logprobs(samples)
    samples = [replace(sample, rollout_logprobs=row) for sample, row in zip(samples, before, strict=True)]
    for _ in range(2):
        stats = rank.update(samples)
        assert math.isfinite(stats.loss) and 0 < stats.grad_norm < math.inf
    rank.export(tmp_path / "trained")
    first, trained = (load_file(folder / "model.safetensors") for folder in (folders[name], tmp_path / "trained"))
    assert trained.keys() == first.keys() and all(trained[key].shape == first[key].shape for key in first)
    moved = {key for key in first if not torch.equal(trained[key], first[key])}
    assert all("post_layernorm" in key for key in first.keys() - moved)
    for folder, rows in ((folders[name], before), (tmp_path / "trained", rank.logprobs(samples))):
        model, prompts = AutoModelForImageTextToText.from_pretrained(folder), prompts_of(folder)
        with torch.no_grad():
            for sample, row in zip(samples, rows, strict=True):
                assert row == pytest.approx(plain_logprobs(model, prompts, sample).tolist(), abs=1e-5)
