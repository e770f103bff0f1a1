"""One DeepSpeed rank: what each process of the learner does. Knows nothing of Ray."""

import datetime
import gc
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from learner import checkpoints
from learner.batching import MicroBatch, TrainSequence, collate, micro_batch_indices, rank_shares
from learner.deepspeed_config import deepspeed_config
from learner.figures import UpdateFigures
from learner.grpo import Sequences, TokenLosses, loss_weights, policy_loss, sft_loss
from learner.model import RopePositions, TokenScorer, freeze_vision, load_model
from learner.rendering import PromptCache
from learner.schedule import learning_rate
from learner.stage import Stage
from learner.weights import gather_weights, weight_buckets, write_model_folder
from ovt_ray.config import LearnerConfig, ModelConfig
from ovt_ray.errors import LearnerError
from ovt_ray.prompts import Prompts
from ovt_ray.types import TrainSample, UpdateStats


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
        torch.manual_seed(self._seed)
        backend = "nccl" if self._device.type == "cuda" else "gloo"
        timeout = datetime.timedelta(seconds=self._config.deadline_s)
        deepspeed.init_distributed(backend, auto_mpi_discovery=False, timeout=timeout, verbose=False)
        self._rank, self._world_size = rank, world_size

    def begin(self, stage: Stage) -> None:
        """Load the stage's first model and build a fresh optimizer; what an earlier stage held is freed."""
        import deepspeed

        self._free()
        self._stage = stage
        self._num_updates = 0
        prompts = Prompts(stage.model_path, self._model)
        self._filler_id, self._forbidden_ids = prompts.eos_id, frozenset(prompts.placeholder_ids)
        settings = deepspeed_config(self._config, stage.optimizer.max_grad_norm)
        policy = self._scorer(settings)
        if stage.optimizer.freeze_vision:
            freeze_vision(policy.model)
        if self._config.gradient_checkpointing:
            policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        section = stage.optimizer
        optimizer = torch.optim.AdamW(
            parameters, lr=section.learning_rate, betas=section.betas, weight_decay=section.weight_decay, fused=True
        )
        self._engine, *_ = deepspeed.initialize(model=policy, optimizer=optimizer, config=settings)
        if stage.policy_loss and stage.policy_loss.kl_coef > 0:
            self._reference = self._frozen_copy(settings)
        self._prompts = PromptCache(prompts, RopePositions(policy.model))

    def update(self, samples: Sequence[TrainSample]) -> UpdateStats:
        """Take one optimizer step on the samples of all ranks and return its figures, the same on every rank.

        The gradient is that of the weighted sum over all loss tokens, whatever the ranks and micro-batches.
        """
        num_tokens = [sum(id not in self._forbidden_ids for id in sample.completion_ids) for sample in samples]
        if not sum(num_tokens):
            raise LearnerError(f"an update of {len(samples)} samples has no token with a loss: hand it samples with completions")
        section = self._stage.policy_loss
        weights = loss_weights(num_tokens, [sample.problem.id for sample in samples], section.normalisation if section else "token")
        rate = learning_rate(self._stage.optimizer, self._num_updates, self._stage.num_updates)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        figures = UpdateFigures(self._device)
        indices, micro_batches = self._micro_batches(samples)
        for number, (members, batch) in enumerate(zip(indices, micro_batches, strict=True), start=1):
            self._engine.set_gradient_accumulation_boundary(number == len(micro_batches))
            batch = batch.to(self._device)
            policy_logprobs, entropy = self._engine(batch)
            losses = self._token_losses(batch, policy_logprobs)
            of_rows = torch.tensor([weights[index] for index in members] or [0.0], device=self._device)
            token_weights = of_rows[batch.sequence_index] * batch.loss_mask
            # DeepSpeed averages gradients over ranks: times the number of ranks, the average is the sum.
            self._engine.backward((losses.loss * token_weights).sum() * self._world_size)
            figures.add(losses, entropy, batch.loss_mask, token_weights)
        self._num_updates += 1
        return figures.stats(grad_norm=self._step(), learning_rate=rate, num_samples=len(samples), num_loss_tokens=sum(num_tokens))

    def logprobs(self, samples: Sequence[TrainSample]) -> list[tuple[float, ...]]:
        """Return the policy's log-probabilities of the completion tokens of this rank's share of the samples, in order.

        They are 0 for image placeholders in a completion.
        """
        indices, micro_batches = self._micro_batches(samples)
        rows: dict[int, tuple[float, ...]] = {}
        for batch, members in zip(micro_batches, indices, strict=True):
            with torch.no_grad():
                policy_logprobs, _ = self._engine(batch.to(self._device))
            lengths = [len(samples[index].completion_ids) for index in members]
            parts = (policy_logprobs.cpu() * batch.loss_mask)[: sum(lengths)].split(lengths)
            rows.update({index: tuple(part.tolist()) for index, part in zip(members, parts, strict=True)})
        return [rows[index] for index in sorted(rows)]

    def weights(self) -> Iterator[dict[str, Tensor]]:
        """Yield the policy's weights by Hugging Face name, bucket by bucket, on rank 0, empty buckets on the others.

        A bucket's tensors hold until the next one is asked for; every rank has to take all.
        """
        return weight_buckets(self._engine.module.model, keep=self._rank == 0)

    def save(self, folder: Path, step: int) -> None:
        """Write everything the stage needs to go on after `step`; the checkpoint before is removed when this one is complete."""
        self._engine.save_checkpoint(
            str(folder), tag=checkpoints.INCOMPLETE, client_state={"num_updates": self._num_updates}, save_latest=False
        )
        distributed.barrier()
        if self._rank == 0:
            checkpoints.complete(folder, step)
        distributed.barrier()

    def restore(self, folder: Path) -> int:
        """Go back to the newest complete checkpoint and return its step; 0, with nothing changed, if there is none."""
        step = checkpoints.newest(folder)
        if step:
            _, client_state = self._engine.load_checkpoint(str(folder), tag=checkpoints.tag(step))
            self._num_updates = client_state["num_updates"]
        return step

    def export(self, folder: Path) -> None:
        """Write the policy as a plain Hugging Face folder."""
        weights = gather_weights(self._engine.module.model, keep=self._rank == 0)
        if self._rank == 0:
            folder.parent.mkdir(parents=True, exist_ok=True)
            write_model_folder(weights, self._stage.model_path, folder)
        distributed.barrier()

    def _scorer(self, settings: dict[str, Any]) -> TokenScorer:
        model = load_model(self._stage.model_path, self._config.dtype, settings if self._config.zero_stage == 3 else None)
        return TokenScorer(model, self._forbidden_ids, self._stage.temperature)

    def _frozen_copy(self, settings: dict[str, Any]) -> Any:
        """Return the stage's first model for the KL term, sharded as the policy is under ZeRO-3."""
        import deepspeed

        reference = self._scorer(settings).requires_grad_(False).eval()
        if self._config.zero_stage != 3:
            return reference.to(self._device)
        engine, *_ = deepspeed.initialize(model=reference, config=settings)
        return engine

    def _free(self) -> None:
        for engine in (self._engine, self._reference):
            if hasattr(engine, "destroy"):
                engine.destroy()
        self._engine = self._reference = None
        gc.collect()

    def _micro_batches(self, samples: Sequence[TrainSample]) -> tuple[list[list[int]], list[MicroBatch]]:
        """Return this rank's micro-batches and which samples each holds, in order; as many as on every other rank."""
        known_tokens = [len(sample.prompt_ids or ()) + len(sample.completion_ids) for sample in samples]
        share = rank_shares(known_tokens, self._world_size)[self._rank]
        sequences: dict[int, TrainSequence] = {index: self._prompts.sequence(samples[index]) for index in share}
        grouped = micro_batch_indices([sequences[index].num_tokens for index in share], self._config.micro_batch_tokens)
        num_batches = torch.tensor(max(1, len(grouped)), device=self._device)
        distributed.all_reduce(num_batches, distributed.ReduceOp.MAX)
        indices = [[share[place] for place in group] for group in grouped]
        indices += [[] for _ in range(int(num_batches) - len(indices))]
        return indices, [self._collate([sequences[index] for index in members]) for members in indices]

    def _collate(self, sequences: list[TrainSequence]) -> MicroBatch:
        return collate(sequences, blank=self._prompts.blank, filler_id=self._filler_id, forbidden_ids=self._forbidden_ids)

    def _token_losses(self, batch: MicroBatch, policy_logprobs: Tensor) -> TokenLosses:
        section = self._stage.policy_loss
        if section is None:
            return sft_loss(policy_logprobs, batch.advantages)
        ref_logprobs = None
        if self._reference is not None:
            with torch.no_grad():
                ref_logprobs, _ = self._reference(batch)
        return policy_loss(
            policy_logprobs,
            rollout_logprobs=batch.rollout_logprobs,
            proximal_logprobs=batch.proximal_logprobs,
            ref_logprobs=ref_logprobs,
            advantages=batch.advantages,
            sequences=Sequences(index=batch.sequence_index, mask=batch.loss_mask),
            section=section,
        )

    def _step(self) -> float:
        """Apply the gradient and return its norm before clipping."""
        whole = isinstance(self._engine.optimizer, torch.optim.Optimizer)  # ZeRO 0 in float32: DeepSpeed keeps no norm
        gradients = [parameter.grad for parameter in self._engine.module.parameters() if whole and parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self._engine.step()
        return float(norm if whole else self._engine.get_global_grad_norm())
