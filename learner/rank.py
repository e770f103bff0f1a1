"""One DeepSpeed rank: what each process of the learner does. Knows nothing of Ray."""

import datetime
import gc
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import compress
from math import fsum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from learner import checkpoints
from learner.adapters import BasePolicy, add_adapters
from learner.batching import MicroBatch, PromptBlock, collate
from learner.deepspeed_config import deepspeed_config, reference_config
from learner.figures import UpdateFigures
from learner.grpo import Sequences, TokenLosses, mixed_loss_weights, policy_loss, sft_loss
from learner.model import TokenPositions, TokenScorer, checkpoint_gradients, load_model
from learner.packing import micro_batches, rank_shares
from learner.parts import freeze
from learner.rendering import PromptCache
from learner.requirements import check_model
from learner.schedule import learning_rate
from learner.stage import Stage
from learner.weights import adapter_buckets, base_buckets, gather_weights, weight_buckets, write_model_folder
from ovt_ray.core.config.run import LearnerConfig, ModelConfig
from ovt_ray.core.errors import LearnerError
from ovt_ray.core.prompts import Prompts
from ovt_ray.core.spans import SpanLog, recorded
from ovt_ray.core.types import TrainSample, UpdateStats
from ovt_ray.core.weights.version import Adapter

VALIDATION_SAMPLES = 256
"""Held-out samples rendered at a time: all of them with their images might not fit in memory."""


class LearnerRank:
    """A rank of the learner group. Every method but `__init__` is called on all ranks at once, with the same arguments."""

    def __init__(self, config: LearnerConfig, model: ModelConfig, seed: int) -> None:
        self._config = config
        self._model = model
        self._seed = seed
        self._device = torch.device("cuda", 0) if config.gpus_per_rank else torch.device("cpu")
        self._engine: Any = None
        self._reference: Any = None
        self._prompts: PromptCache
        self.spans = SpanLog()

    def join(self, rank: int, world_size: int, address: tuple[str, int]) -> None:
        """Meet the other ranks at the address of rank 0."""
        os.environ.update(RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE=str(world_size), MASTER_ADDR=address[0], MASTER_PORT=str(address[1]))
        os.environ["DS_ACCELERATOR"] = self._device.type
        import deepspeed
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        # An operator for inference on one host, which we never use: DeepSpeed would spend half a minute compiling it here.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        torch.set_num_threads(self._config.cpus_per_rank)
        if 0 < self._config.gpus_per_rank < 1:  # an engine that is started beside it, or anew, has to find its share free
            torch.cuda.set_per_process_memory_fraction(self._config.gpus_per_rank)
        torch.manual_seed(self._seed)
        backend = "nccl" if self._device.type == "cuda" else "gloo"
        timeout = datetime.timedelta(seconds=self._config.deadline_s)
        deepspeed.init_distributed(backend, auto_mpi_discovery=False, timeout=timeout, verbose=False)
        self._rank, self._world_size = rank, world_size

    @recorded
    def begin(self, stage: Stage) -> None:
        """Load the stage's first model and build a fresh optimizer; what an earlier stage held is freed."""
        import deepspeed

        check_model(stage.model_path, self._config.layout)
        self._free()
        self._stage = stage
        self._num_updates = 0
        prompts = Prompts(stage.model_path, self._model)
        self._filler_id, self._forbidden_ids = prompts.eos_id, frozenset(prompts.placeholder_ids)
        settings = deepspeed_config(self._config, stage.optimizer.max_grad_norm)
        policy = self._scorer(settings)
        freeze(policy.model, stage.optimizer.freeze)
        if self._config.lora:
            add_adapters(policy.model, self._config.lora, self._seed)
        if self._config.gradient_checkpointing:
            checkpoint_gradients(policy.model)
        parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        section = stage.optimizer
        optimizer = torch.optim.AdamW(
            parameters, lr=section.learning_rate, betas=section.betas, weight_decay=section.weight_decay, fused=True
        )
        self._engine, *_ = deepspeed.initialize(model=policy, optimizer=optimizer, config=settings)
        if stage.policy_loss and stage.policy_loss.kl_coef > 0:
            self._reference = BasePolicy(policy, policy.model) if self._config.lora else self._frozen_copy()
        self._prompts = PromptCache(prompts, TokenPositions(policy.model))

    @recorded
    def update(self, samples: Sequence[TrainSample]) -> UpdateStats:
        """Take one optimizer step on the samples of all ranks and return its figures, the same on every rank.

        The gradient is that of the weighted sum over all loss tokens, whatever the ranks and micro-batches. In a stage with a policy
        loss, samples without rollout log-probabilities are traces: they get the cross entropy, times the stage's `sft_coef`.
        """
        section = self._stage.policy_loss
        is_sft = [section is not None and sample.rollout_logprobs is None for sample in samples]
        num_tokens = self._num_loss_tokens(samples)
        num_sft_tokens = sum(compress(num_tokens, is_sft))
        if sum(num_tokens) == num_sft_tokens:
            beside = ", traces aside" if num_sft_tokens else ""
            raise LearnerError(f"an update of {len(samples)} samples has no token with a loss{beside}: hand it samples with completions")
        normalisation, sft_coef = (section.normalisation, section.sft_coef) if section else ("token", 0.0)
        weights = mixed_loss_weights(num_tokens, [sample.problem.id for sample in samples], is_sft, normalisation, sft_coef)
        rate = learning_rate(self._stage.optimizer, self._num_updates, self._stage.num_updates)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        figures = UpdateFigures(self._device)
        with self.spans.during("prepare"):
            passes = self._passes(samples)
        for number, blocks in enumerate(passes, start=1):
            self._engine.set_gradient_accumulation_boundary(number == len(passes))
            batch = self._collate(blocks)
            ref_logprobs = self._ref_logprobs(batch)  # first: the reference may be the policy without adapters
            with self.spans.during("forward"):
                policy_logprobs, entropy = self._engine(batch)
            token_is_sft = self._by_token(is_sft, blocks, batch) > 0
            token_weights = self._by_token(weights, blocks, batch) * batch.loss_mask
            losses = self._token_losses(batch, policy_logprobs, ref_logprobs, token_is_sft)
            # DeepSpeed averages gradients over ranks: times the number of ranks, the average is the sum.
            with self.spans.during("backward"):
                self._engine.backward((losses.loss * token_weights).sum() * self._world_size)
            figures.add(losses, entropy, batch.loss_mask, token_weights, token_is_sft)
        self._num_updates += 1
        with self.spans.during("optimizer"):
            grad_norm = self._step()
        return figures.stats(
            grad_norm=grad_norm,
            learning_rate=rate,
            num_samples=len(samples),
            num_loss_tokens=sum(num_tokens),
            num_sft_tokens=num_sft_tokens,
        )

    @recorded
    def logprobs(self, samples: Sequence[TrainSample]) -> list[tuple[float, ...]]:
        """Return the policy's log-probabilities of the completion tokens of this rank's share of the samples, in order.

        They are 0 for image placeholders in a completion.
        """
        rows: dict[int, tuple[float, ...]] = {}
        for blocks in self._passes(samples):
            batch = self._collate(blocks)
            with torch.no_grad():
                policy_logprobs, _ = self._engine(batch)
            indices = _indices(blocks)
            parts = (policy_logprobs * batch.loss_mask).cpu().split([len(samples[index].completion_ids) for index in indices])
            rows.update({index: tuple(part.tolist()) for index, part in zip(indices, parts, strict=True)})
        return [rows[index] for index in sorted(rows)]

    @recorded
    def validation_loss(self, samples: Sequence[TrainSample]) -> float:
        """Return the mean cross entropy of the loss tokens of all ranks' samples, nats, the same on every rank; nothing is updated."""
        parts = [samples[start : start + VALIDATION_SAMPLES] for start in range(0, len(samples), VALIDATION_SAMPLES)]
        sums = [fsum(value for row in self.logprobs(part) for value in row) for part in parts]
        own = torch.tensor(-fsum(sums), dtype=torch.float64, device=self._device)
        distributed.all_reduce(own)
        return float(own) / sum(self._num_loss_tokens(samples))

    def weights(self) -> Iterator[dict[str, Tensor]]:
        """Yield the policy's weights by Hugging Face name, bucket by bucket, on rank 0, empty buckets on the others.

        A bucket's tensors hold until the next one is asked for; every rank has to take all.
        """
        return weight_buckets(self._engine.module.model, keep=self._rank == 0)

    def base_weights(self) -> Iterator[dict[str, Tensor]]:
        """Yield what `weights` does of the policy without its adapters, which is the stage's first model."""
        return base_buckets(self._engine.module.model, keep=self._rank == 0)

    def adapters(self) -> Iterator[list[Adapter]]:
        """Yield the policy's adapters as `weights` does its weights."""
        return adapter_buckets(self._engine.module.model, keep=self._rank == 0)

    @recorded
    def save(self, folder: Path, step: int) -> None:
        """Write everything the stage needs to go on after `step`; the checkpoint before is removed when this one is complete."""
        self._engine.save_checkpoint(
            str(folder),
            tag=checkpoints.INCOMPLETE,
            client_state={"num_updates": self._num_updates},
            save_latest=False,
            exclude_frozen_parameters=True,  # they are those of the stage's first model, which `begin` loads
        )
        distributed.barrier()
        if self._rank == 0:
            checkpoints.complete(folder, step)
        distributed.barrier()

    @recorded
    def restore(self, folder: Path) -> int:
        """Go back to the newest complete checkpoint and return its step; 0, with nothing changed, if there is none."""
        step = checkpoints.newest(folder)
        if step:
            # Not strict, because frozen parameters are not in it.
            _, client_state = self._engine.load_checkpoint(str(folder), tag=checkpoints.tag(step), load_module_strict=False)
            self._num_updates = client_state["num_updates"]
        return step

    @recorded
    def export(self, folder: Path) -> None:
        """Write the policy as a plain Hugging Face folder."""
        weights = gather_weights(self._engine.module.model, keep=self._rank == 0)
        if self._rank == 0:
            folder.parent.mkdir(parents=True, exist_ok=True)
            write_model_folder(weights, self._stage.model_path, folder)
        distributed.barrier()

    def _scorer(self, settings: dict[str, Any]) -> TokenScorer:
        shards_weights = settings["zero_optimization"]["stage"] == 3
        model = load_model(self._stage.model_path, self._config.dtype, self._config.layout, settings if shards_weights else None)
        return TokenScorer(model, self._forbidden_ids, self._stage.temperature)

    def _frozen_copy(self) -> Any:
        """Return the stage's first model for the KL term: whole on every rank, or sharded by ZeRO-3."""
        import deepspeed

        settings = reference_config(self._config)
        reference = self._scorer(settings).requires_grad_(False).eval()
        if settings["zero_optimization"]["stage"] != 3:
            return reference.to(self._device)
        engine, *_ = deepspeed.initialize(model=reference, config=settings)
        return engine

    def _free(self) -> None:
        for engine in (self._engine, self._reference):
            if hasattr(engine, "destroy"):
                engine.destroy()
        self._engine = self._reference = None
        gc.collect()

    def _passes(self, samples: Sequence[TrainSample]) -> list[list[PromptBlock]]:
        """Return the blocks of each of this rank's forward passes; as many as on every other rank, the last ones empty if need be."""
        known_tokens = _known_tokens(samples, shares_prompts=self._config.layout == "shared_prompts")
        share = rank_shares(known_tokens, self._world_size)[self._rank]
        blocks = [self._prompts.block(index, samples[index]) for index in share]
        passes = micro_batches(blocks, self._config.layout, self._config.micro_batch_tokens)
        num_passes = torch.tensor(max(1, len(passes)), device=self._device)
        distributed.all_reduce(num_passes, distributed.ReduceOp.MAX)
        return passes + [[] for _ in range(int(num_passes) - len(passes))]

    def _collate(self, blocks: Sequence[PromptBlock]) -> MicroBatch:
        batch = collate(
            blocks,
            self._config.layout,
            blank=self._prompts.blank,
            filler_id=self._filler_id,
            forbidden_ids=self._forbidden_ids,
        )
        return batch.to(self._device)

    def _by_token(self, of_samples: Sequence[float], blocks: Sequence[PromptBlock], batch: MicroBatch) -> Tensor:
        """Return at each completion token the value of its sample, (N,)."""
        values = torch.tensor([float(of_samples[index]) for index in _indices(blocks)], device=self._device)
        return values[batch.sequence_index]

    def _ref_logprobs(self, batch: MicroBatch) -> Tensor | None:
        """Return the reference's log-probabilities of the completion tokens, (N,); None without a KL term."""
        if self._reference is None:
            return None
        with self.spans.during("reference"), torch.no_grad():
            return self._reference(batch)[0]

    def _num_loss_tokens(self, samples: Sequence[TrainSample]) -> list[int]:
        return [sum(id not in self._forbidden_ids for id in sample.completion_ids) for sample in samples]

    def _token_losses(self, batch: MicroBatch, policy_logprobs: Tensor, ref_logprobs: Tensor | None, is_sft: Tensor) -> TokenLosses:
        section = self._stage.policy_loss
        if section is None:
            return sft_loss(policy_logprobs, batch.advantages)
        losses = policy_loss(
            policy_logprobs,
            rollout_logprobs=batch.rollout_logprobs,
            proximal_logprobs=batch.proximal_logprobs,
            ref_logprobs=ref_logprobs,
            advantages=batch.advantages,
            sequences=Sequences(index=batch.sequence_index, mask=batch.loss_mask),
            section=section,
        )
        return replace(losses, loss=torch.where(is_sft, sft_loss(policy_logprobs, batch.advantages).loss, losses.loss))

    def _step(self) -> float:
        """Apply the gradient and return its norm before clipping."""
        whole = isinstance(self._engine.optimizer, torch.optim.Optimizer)  # ZeRO 0 in float32: DeepSpeed keeps no norm
        gradients = [parameter.grad for parameter in self._engine.module.parameters() if whole and parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self._engine.step()
        return float(norm if whole else self._engine.get_global_grad_norm())


def _indices(blocks: Sequence[PromptBlock]) -> list[int]:
    return [index for block in blocks for index in block.indices]


def _known_tokens(samples: Sequence[TrainSample], *, shares_prompts: bool) -> list[int]:
    """Return each sample's tokens. A shared prompt counts with its first sample; one that is not rendered yet (SFT) does not count."""
    seen: set[str] = set()
    numbers = []
    for sample in samples:
        is_fed = not shares_prompts or sample.problem.id not in seen
        seen.add(sample.problem.id)
        numbers.append(len(sample.completion_ids) + (len(sample.prompt_ids or ()) if is_fed else 0))
    return numbers
