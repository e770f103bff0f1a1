"""Measures the learner's gain from packing and from shared prompts: seconds and memory of the same gradient, computed in several ways.

    python -m benchmarks.learner

Two batches run on one core, in float32. The batch `skewed` has completions of very different lengths behind prompts with images. The batch
`groups` has 8 completions of 300 tokens to a prompt of 1,000 tokens, mostly image. Each batch goes forward and backward in these ways:
- plain: transformers' own model, one sequence per pass, all logits at once, like a loop in plain torch.
- padded: rows in the order of the batch, up to the budget of tokens with their padding.
- sorted: the same sorted by length, which is the learner's layout `padded`.
- packed and shared: the learner's layouts `packed` and `shared_prompts`.
The ways take turns, and all gradients are compared. Seconds are processor time, so that other processes matter little. Memory is the peak
of a separate process beyond the model. The model is a Qwen2.5-VL of 4 layers of width 256. Its output layer has the same share of the
parameters as in the 7B model. The token count covers all prompts and completions, each completion with its prompt. The last line is a JSON
object.
"""

import io
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig

from learner.batching import PromptBlock, collate
from learner.model import TokenPositions, TokenScorer, load_model
from learner.packing import micro_batches
from learner.rendering import PromptCache
from ovt_ray.core.config.run import Layout, ModelConfig
from ovt_ray.core.prompts import Prompts
from ovt_ray.core.types import AnswerKind, Problem, TrainSample
from ovt_ray.world import build_tiny_model

ROUNDS = 3
BUDGET = 4096
"""Upper bound on the tokens of a pass."""
WIDTH = 256
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Samples behind their rendered prompts, and the weight of their tokens in the loss."""

    name: str
    blocks: Sequence[PromptBlock]
    """Block of each sample."""
    weights: Mapping[int, float]
    """Weight of each completion token, by sample."""

    @property
    def num_tokens(self) -> int:
        """Token count of all samples, each with its prompt."""
        return sum(block.num_prompt + len(block.samples[0].completion_ids) for block in self.blocks)


Way = Callable[[Batch], None]
"""Function that adds a batch's gradient to the model's."""


class Ways:
    """The ways to compute a batch's gradient, on the same model."""

    def __init__(self, folder: Path) -> None:
        self.packing = load_model(str(folder), "float32", "shared_prompts", None)
        self.plain = load_model(str(folder), "float32", "padded", None)
        for (name, parameter), (other, own) in zip(self.packing.named_parameters(), self.plain.named_parameters(), strict=True):
            assert name == other
            own.data = parameter.data
        self.prompts = Prompts(str(folder), ModelConfig(path=str(folder), max_pixels=10**7))
        self.cache = PromptCache(self.prompts, TokenPositions(self.packing))

    def all(self) -> dict[str, tuple[Way, nn.Module]]:
        """Return each way by its name, with the model whose gradient it adds to."""
        return {
            "plain": (self.one_by_one, self.plain),
            "padded": (lambda batch: self.passes(_in_order(batch.blocks), batch, "padded"), self.plain),
            "sorted": (lambda batch: self.laid_out(batch, "padded"), self.plain),
            "packed": (lambda batch: self.laid_out(batch, "packed"), self.packing),
            "shared": (lambda batch: self.laid_out(batch, "shared_prompts"), self.packing),
        }

    def laid_out(self, batch: Batch, layout: Layout) -> None:
        """Run the passes of a layout of the learner."""
        self.passes(micro_batches(batch.blocks, layout, BUDGET), batch, layout)

    def passes(self, passes: Sequence[Sequence[PromptBlock]], batch: Batch, layout: Layout) -> None:
        """Run passes as the learner does."""
        scorer = TokenScorer(self.plain if layout == "padded" else self.packing, frozenset(self.prompts.placeholder_ids), 1.0)
        forbidden = frozenset(self.prompts.placeholder_ids)
        for blocks in passes:
            micro_batch = collate(blocks, layout, blank=self.cache.blank, filler_id=self.prompts.eos_id, forbidden_ids=forbidden)
            logprobs, _ = scorer(micro_batch)
            weights = torch.tensor([batch.weights[index] for block in blocks for index in block.indices])
            (logprobs * weights[micro_batch.sequence_index]).sum().backward()

    def one_by_one(self, batch: Batch) -> None:
        """Run transformers' own forward pass on each sequence in turn."""
        forbidden = torch.tensor(self.prompts.placeholder_ids)
        for block in batch.blocks:
            completion = torch.tensor(block.samples[0].completion_ids)
            ids = torch.cat([torch.tensor(block.prompt.ids), completion])[None]
            is_image = (ids == self.plain.config.image_token_id).int()
            logits = self.plain(input_ids=ids, mm_token_type_ids=is_image, use_cache=False, **block.prompt.images).logits[0].float()
            predicting = logits[block.num_prompt - 1 : -1].index_fill(-1, forbidden, -1e9)
            logprobs = predicting.log_softmax(-1).gather(-1, completion[:, None])
            (logprobs.sum() * batch.weights[block.indices[0]]).backward()


def main() -> None:
    """Print a table of each batch, and the ratios as JSON."""
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        ways = Ways(Path(folder))
        for batch in (skewed_batch(ways), group_batch(ways)):
            seconds, gigabytes = measure(ways, batch)
            report(batch, seconds, gigabytes)
            figures |= {f"{batch.name}_tokens_per_s_{name}": round(batch.num_tokens / seconds[name], 1) for name in seconds}
            figures |= {f"{batch.name}_gib_{name}": round(gigabytes[name], 3) for name in seconds}
            if batch.name == "skewed":
                figures["packed_over_padded"] = round(seconds["padded"] / seconds["packed"], 2)
                figures["packed_over_sorted"] = round(seconds["sorted"] / seconds["packed"], 2)
                figures["packed_over_plain"] = round(seconds["plain"] / seconds["packed"], 2)
            else:
                figures["grouped_over_packed"] = round(seconds["packed"] / seconds["shared"], 2)
                figures["grouped_over_plain"] = round(seconds["plain"] / seconds["shared"], 2)
    print(json.dumps(figures))


def write_model(folder: Path) -> None:
    """Write a wider Qwen2.5-VL of the embedded model's kind."""
    build_tiny_model(folder, seed=0)
    config = Qwen2_5_VLConfig.from_pretrained(folder)
    text = config.text_config.to_dict() | {
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_attention_heads": 8,
        "vocab_size": 1024,
    }
    vision = config.vision_config.to_dict() | {"hidden_size": 128, "intermediate_size": 384, "out_hidden_size": WIDTH, "depth": 4}
    config.text_config = Qwen2_5_VLTextConfig(**text)
    config.vision_config = Qwen2_5_VLVisionConfig(**vision)
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)


def skewed_batch(ways: Ways) -> Batch:
    """Return 12 problems with pictures of many sizes and 4 completions each. Of 8 to 768 tokens, most are short and a few long."""
    generator = np.random.default_rng(0)
    samples = []
    for number in range(12):
        problem = _problem(f"skewed {number}", int(generator.integers(2, 10)) * 28, int(generator.integers(2, 10)) * 28)
        lengths = np.exp(generator.normal(np.log(90), 1.0, size=4)).clip(8, 768).astype(int)
        samples += [_sample(problem, int(length), generator) for length in lengths]
    return _batch("skewed", samples, ways, generator)


def group_batch(ways: Ways) -> Batch:
    """Return 8 completions of 300 tokens to a prompt of about 1,000 tokens."""
    generator = np.random.default_rng(0)
    problem = _problem("group", 31 * 28, 31 * 28)
    return _batch("groups", [_sample(problem, 300, generator) for _ in range(8)], ways, generator)


def _problem(name: str, width: int, height: int) -> Problem:
    file = io.BytesIO()
    noise = np.random.default_rng(len(name)).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, format="PNG")
    return Problem(id=name, question="How high is the red bar?", images=(file.getvalue(),), answer="1", kind=AnswerKind.NUMBER)


def _sample(problem: Problem, length: int, generator: np.random.Generator) -> TrainSample:
    return TrainSample(problem=problem, completion_ids=tuple(generator.integers(20, 400, size=length).tolist()))


def _batch(name: str, samples: Sequence[TrainSample], ways: Ways, generator: np.random.Generator) -> Batch:
    order = generator.permutation(len(samples)) if name == "skewed" else range(len(samples))
    blocks = [ways.cache.block(index, samples[place]) for index, place in enumerate(order)]
    weights = generator.normal(size=len(samples)) / sum(len(sample.completion_ids) for sample in samples)
    return Batch(name=name, blocks=blocks, weights=dict(enumerate(weights.tolist())))


def _in_order(blocks: Sequence[PromptBlock]) -> list[list[PromptBlock]]:
    """Return rows in the order of the batch, cut where they would exceed the budget with their padding."""
    passes: list[list[PromptBlock]] = []
    for block in blocks:
        row = [*passes[-1], block] if passes else [block]
        if passes and len(row) * max(one.num_tokens for one in row) <= BUDGET:
            passes[-1] = row
        else:
            passes.append([block])
    return passes


def measure(ways: Ways, batch: Batch) -> tuple[dict[str, float], dict[str, float]]:
    """Return the median seconds and the memory of each way. Raises RuntimeError if their gradients differ."""
    known = ways.all()
    gigabytes = {name: _peak_gib(way, batch) for name, (way, _) in known.items()}
    seconds: dict[str, list[float]] = {name: [] for name in known}
    gradients: dict[str, Tensor] = {}
    for number in range(ROUNDS):
        for name, (way, model) in known.items():
            model.zero_grad()
            start = time.process_time()
            way(batch)
            seconds[name].append(time.process_time() - start)
            if number == 0:
                gradients[name] = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
        print(f"[{batch.name}] round {number + 1} of {ROUNDS}", flush=True)
    for name, gradient in gradients.items():
        gap = float((gradient - gradients["plain"]).norm() / gradients["plain"].norm())
        if gap > 1e-5:
            raise RuntimeError(f"{batch.name}: the gradient of {name!r} is {gap:.1e} off that of plain torch")
    return {name: median(values) for name, values in seconds.items()}, gigabytes


def _peak_gib(way: Way, batch: Batch) -> float:
    """Return the peak memory of a child of this process, beyond its memory at the start."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        before = _resident_bytes()
        way(batch)
        os.write(writer, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return int(text) / GIB


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def report(batch: Batch, seconds: Mapping[str, float], gigabytes: Mapping[str, float]) -> None:
    """Print the table of a batch."""
    print(f"\n{batch.name}: {len(batch.blocks)} samples, {batch.num_tokens:,} tokens\n{'way':<10}{'seconds':>9}{'tokens/s':>10}{'GiB':>8}")
    for name, value in seconds.items():
        print(f"{name:<10}{value:>9.2f}{batch.num_tokens / value:>10,.0f}{gigabytes[name]:>8.2f}")


if __name__ == "__main__":
    main()
