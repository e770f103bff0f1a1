"""One DeepSpeed rank: the work of each process of the learner. Knows nothing of Ray."""

import datetime
import gc
import os
from collections.abc import Sequence
from dataclasses import replace
from math import fsum
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from learner.batching import MicroBatch, PromptBlock
from learner.figures import UpdateFigures
from learner.grpo import Sequences, TokenLosses, policy_loss, sft_loss
from learner.packing import known_tokens, micro_batches, rank_shares
from learner.requirements import check_model
from learner.sample_weights import sample_weights
from learner.stage import Stage
from learner.stage_state import StageState, begun
from learner.weights import gather_weights, write_model_folder
from ovt_ray.core.config.run import LearnerConfig, ModelConfig
from ovt_ray.core.spans import SpanLog, recorded
from ovt_ray.core.types import TrainSample, UpdateStats

VALIDATION_SAMPLES = 256
"""Held-out samples rendered at a time: all of them with their images might not fit in memory."""


class LearnerRank:
    """A rank of the learner group. Every method is called on all ranks at once, with the same arguments."""

    def __init__(self, config: LearnerConfig, model: ModelConfig, seed: int) -> None:
        self._config = config
        self._model = model
        self._seed = seed
        self._device = torch.device("cuda", 0) if config.gpus_per_rank else torch.device("cpu")
        self._state: StageState
        self.spans = SpanLog()

    def join(self, rank: int, world_size: int, address: tuple[str, int]) -> None:
        """Meet the other ranks at the address of rank 0."""
        os.environ.update(RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE=str(world_size), MASTER_ADDR=address[0], MASTER_PORT=str(address[1]))
        # Before the import: DeepSpeed chooses its accelerator once, on first use.
        os.environ["DS_ACCELERATOR"] = self._device.type
        import deepspeed
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        # An operator for inference on one host, which we never use: DeepSpeed would spend half a minute compiling it here.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        torch.set_num_threads(self._config.cpus_per_rank)
        if 0 < self._config.gpus_per_rank < 1:  # an engine that starts on the same GPU, now or later, has to find its share free
            torch.cuda.set_per_process_memory_fraction(self._config.gpus_per_rank)
        torch.manual_seed(self._seed)
        backend = "nccl" if self._device.type == "cuda" else "gloo"
        timeout = datetime.timedelta(seconds=self._config.deadline_s)
        deepspeed.init_distributed(backend, auto_mpi_discovery=False, timeout=timeout, verbose=False)
        self._rank, self._world_size = rank, world_size

    @property
    def policy(self) -> nn.Module:
        """The policy's model; under ZeRO-3 each rank holds a part of each parameter."""
        return self._state.policy

    @recorded
    def begin(self, stage: Stage) -> None:
        """Load the stage's first model and build a fresh optimizer; the state of an earlier stage is freed."""
        check_model(stage.model_path, self._config.layout)
        if hasattr(self, "_state"):  # first: memory may not hold two models with their optimizers
            self._state.free()
            del self._state
            gc.collect()
        self._state = begun(stage, config=self._config, model=self._model, seed=self._seed, device=self._device)

    @recorded
    def update(self, samples: Sequence[TrainSample]) -> UpdateStats:
        """Take one optimizer step on the samples of all ranks and return its figures, the same on every rank.

        The gradient is that of the weighted sum over all loss tokens, however ranks and micro-batches split them.
        """
        state = self._state
        # From all samples, not this rank's share: every rank divides by the same totals.
        weights = sample_weights(samples, state.num_loss_tokens(samples), state.stage.policy_loss)
        # Before the step, which counts the update and so moves the schedule.
        rate = state.set_learning_rate()
        figures = UpdateFigures(self._device)
        with self.spans.during("prepare"):
            passes = self._passes(samples)
        for number, blocks in enumerate(passes, start=1):
            # DeepSpeed applies gradients at a boundary only: all passes have to be in them first.
            state.engine.set_gradient_accumulation_boundary(number == len(passes))
            batch = state.micro_batch(blocks)
            # Before the policy's own pass: the reference may be the policy without adapters, and ZeRO-3 counts the passes of a layer.
            ref_logprobs = self._ref_logprobs(batch)
            with self.spans.during("forward"):
                policy_logprobs, entropy = state.engine(batch)
            is_trace = self._by_token(weights.is_trace, blocks, batch) > 0
            token_weights = self._by_token(weights.of_tokens, blocks, batch) * batch.loss_mask
            losses = self._token_losses(batch, policy_logprobs, ref_logprobs, is_trace)
            # DeepSpeed averages gradients over ranks: times the number of ranks, the average is the sum.
            with self.spans.during("backward"):
                state.engine.backward((losses.loss * token_weights).sum() * self._world_size)
            figures.add(losses, entropy=entropy, mask=batch.loss_mask, loss_weights=token_weights, is_trace=is_trace)
        with self.spans.during("optimizer"):
            grad_norm = state.step()
        return figures.stats(
            grad_norm=grad_norm,
            learning_rate=rate,
            num_samples=len(samples),
            num_loss_tokens=weights.num_loss_tokens,
            num_trace_tokens=weights.num_trace_tokens,
        )

    @recorded
    def logprobs(self, samples: Sequence[TrainSample]) -> list[tuple[float, ...]]:
        """Return the policy's log-probabilities of the completion tokens of this rank's share of the samples, in order.

        They are 0 for image placeholders in a completion.
        """
        rows: dict[int, tuple[float, ...]] = {}
        for blocks in self._passes(samples):
            batch = self._state.micro_batch(blocks)
            with torch.no_grad():
                policy_logprobs, _ = self._state.engine(batch)
            indices = _indices(blocks)
            parts = (policy_logprobs * batch.loss_mask).cpu().split([len(samples[index].completion_ids) for index in indices])
            rows.update({index: tuple(part.tolist()) for index, part in zip(indices, parts, strict=True)})
        # Packs hold samples in any order; the driver joins the ranks' rows by position.
        return [rows[index] for index in sorted(rows)]

    @recorded
    def validation_loss(self, samples: Sequence[TrainSample]) -> float:
        """Return the mean cross entropy of the loss tokens of all ranks' samples, nats, the same on every rank; nothing is updated."""
        parts = [samples[start : start + VALIDATION_SAMPLES] for start in range(0, len(samples), VALIDATION_SAMPLES)]
        sums = [fsum(value for row in self.logprobs(part) for value in row) for part in parts]
        # float64: in float32, the sum over many tokens would depend on how ranks split them.
        own = torch.tensor(-fsum(sums), dtype=torch.float64, device=self._device)
        distributed.all_reduce(own)
        return float(own) / sum(self._state.num_loss_tokens(samples))

    @recorded
    def save(self, folder: Path, step: int) -> None:
        """Write everything the stage needs to go on after `step`; the checkpoint before is removed when this one is complete."""
        self._state.save(folder, step, is_first=self._rank == 0)

    @recorded
    def restore(self, folder: Path) -> int:
        """Go back to the newest complete checkpoint and return its step; 0, with nothing changed, if there is none."""
        return self._state.restore(folder)

    @recorded
    def export(self, folder: Path) -> None:
        """Write the policy as a plain Hugging Face folder."""
        # On every rank, though only the first keeps them: under ZeRO-3 gathering is a collective.
        weights = gather_weights(self.policy, keep=self._rank == 0)
        if self._rank == 0:
            folder.parent.mkdir(parents=True, exist_ok=True)
            write_model_folder(weights, self._state.stage.model_path, folder)
        # No rank answers before the folder is whole.
        distributed.barrier()

    def _passes(self, samples: Sequence[TrainSample]) -> list[list[PromptBlock]]:
        """Return the blocks of each of this rank's forward passes. Every rank has the same number of passes; the last ones may be empty."""
        tokens = known_tokens(samples, shares_prompts=self._config.layout == "shared_prompts")
        share = rank_shares(tokens, self._world_size)[self._rank]
        blocks = [self._state.prompts.block(index, samples[index]) for index in share]
        passes = micro_batches(blocks, self._config.layout, self._config.micro_batch_tokens)
        # Each pass is a collective: a rank with fewer passes would leave the others waiting.
        num_passes = torch.tensor(max(1, len(passes)), device=self._device)
        distributed.all_reduce(num_passes, distributed.ReduceOp.MAX)
        return passes + [[] for _ in range(int(num_passes) - len(passes))]

    def _ref_logprobs(self, batch: MicroBatch) -> Tensor | None:
        if self._state.reference is None:
            return None
        with self.spans.during("reference"):
            return self._state.reference_logprobs(batch)

    def _by_token(self, of_samples: Sequence[float], blocks: Sequence[PromptBlock], batch: MicroBatch) -> Tensor:
        """Return at each completion token the value of its sample, (N,)."""
        values = torch.tensor([float(of_samples[index]) for index in _indices(blocks)], device=self._device)
        return values[batch.sequence_index]

    def _token_losses(self, batch: MicroBatch, policy_logprobs: Tensor, ref_logprobs: Tensor | None, is_trace: Tensor) -> TokenLosses:
        variant = self._state.stage.policy_loss
        if variant is None:
            return sft_loss(policy_logprobs, batch.advantages)
        losses = policy_loss(
            policy_logprobs,
            rollout_logprobs=batch.rollout_logprobs,
            proximal_logprobs=batch.proximal_logprobs,
            ref_logprobs=ref_logprobs,
            advantages=batch.advantages,
            sequences=Sequences(index=batch.sequence_index, mask=batch.loss_mask),
            variant=variant,
        )
        # A trace has no rollout log-probabilities, so its policy loss means nothing and must not count.
        return replace(losses, loss=torch.where(is_trace, sft_loss(policy_logprobs, batch.advantages).loss, losses.loss))


def _indices(blocks: Sequence[PromptBlock]) -> list[int]:
    return [index for block in blocks for index in block.indices]
