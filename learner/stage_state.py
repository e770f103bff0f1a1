"""The state of one stage on one rank: the policy's engine, the reference and the prompts, built when the stage begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from learner import checkpoints
from learner.adapters import BasePolicy, add_adapters
from learner.batching import MicroBatch, PromptBlock, collate
from learner.deepspeed_config import deepspeed_config, reference_config
from learner.model import TokenPositions, TokenScorer, checkpoint_gradients, load_model
from learner.parts import freeze
from learner.rendering import PromptCache
from learner.schedule import learning_rate
from learner.stage import Stage
from ovt_ray.core.config.run import Layout, LearnerConfig, ModelConfig
from ovt_ray.core.prompts import Prompts
from ovt_ray.core.types import TrainSample


@dataclass(kw_only=True)
class StageState:
    """Everything that a rank holds for the stage that it trains."""

    stage: Stage
    layout: Layout
    device: torch.device
    engine: Any
    """DeepSpeed's engine around the policy."""
    reference: Any
    """The stage's first model for the KL term; None without one."""
    prompts: PromptCache
    filler_id: int
    """Token id that is fed in place of a forbidden one."""
    forbidden_ids: frozenset[int]
    """Token ids that no answer may hold: image placeholders."""
    num_updates: int = 0
    """Optimizer steps taken so far."""

    @property
    def policy(self) -> nn.Module:
        """The policy's model, as transformers has it."""
        return self.engine.module.model

    def micro_batch(self, blocks: Sequence[PromptBlock]) -> MicroBatch:
        """Return the tensors of a forward pass, on the rank's device."""
        batch = collate(blocks, self.layout, blank=self.prompts.blank, filler_id=self.filler_id, forbidden_ids=self.forbidden_ids)
        return batch.to(self.device)

    def reference_logprobs(self, batch: MicroBatch) -> Tensor | None:
        """Return the reference's log-probabilities of the completion tokens, (N,); None without a KL term."""
        if self.reference is None:
            return None
        with torch.no_grad():
            return self.reference(batch)[0]

    def num_loss_tokens(self, samples: Sequence[TrainSample]) -> list[int]:
        """Return the count of each sample's tokens that have a loss."""
        return [sum(id not in self.forbidden_ids for id in sample.completion_ids) for sample in samples]

    def set_learning_rate(self) -> float:
        """Give the optimizer the learning rate of the next update, and return it."""
        rate = learning_rate(self.stage.optimizer, self.num_updates, self.stage.num_updates)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def step(self) -> float:
        """Apply the gradient and return its norm before clipping."""
        whole = isinstance(self.engine.optimizer, torch.optim.Optimizer)  # ZeRO 0 in float32: DeepSpeed keeps no norm
        gradients = [parameter.grad for parameter in self.engine.module.parameters() if whole and parameter.grad is not None]
        # Before the step, which clears the gradients; other optimizers know their norm only after it.
        norm = torch.nn.utils.get_total_norm(gradients)
        self.engine.step()
        self.num_updates += 1
        return float(norm if whole else self.engine.get_global_grad_norm())

    def save(self, folder: Path, step: int, *, is_first: bool) -> None:
        """Write a checkpoint; the first rank gives it its name when all ranks have written their parts."""
        self.engine.save_checkpoint(
            str(folder),
            tag=checkpoints.INCOMPLETE,
            client_state={"num_updates": self.num_updates},
            save_latest=False,
            exclude_frozen_parameters=True,  # they are those of the stage's first model, which is loaded when the stage begins
        )
        distributed.barrier()  # the name says that the checkpoint is complete
        if is_first:
            checkpoints.complete(folder, step)
        distributed.barrier()  # no rank may go on before the name is there

    def restore(self, folder: Path) -> int:
        """Go back to the newest complete checkpoint and return its step; 0, with nothing changed, if there is none."""
        step = checkpoints.newest(folder)
        if step:
            # Not strict, because frozen parameters are not in it.
            _, client_state = self.engine.load_checkpoint(str(folder), tag=checkpoints.tag(step), load_module_strict=False)
            # The learning rate follows from it: at 0 the schedule would begin from the start.
            self.num_updates = client_state["num_updates"]
        return step

    def free(self) -> None:
        """End engine and reference; the state cannot be used afterwards."""
        for engine in (self.engine, self.reference):
            if hasattr(engine, "destroy"):
                engine.destroy()


def begun(stage: Stage, *, config: LearnerConfig, model: ModelConfig, seed: int, device: torch.device) -> StageState:
    """Return the state of a stage before its first update: its first model under a fresh optimizer."""
    import deepspeed

    prompts = Prompts(stage.model_path, model)
    forbidden_ids = frozenset(prompts.placeholder_ids)
    settings = deepspeed_config(config, stage.optimizer.max_grad_norm)
    scorer = _scorer(stage, config, forbidden_ids, settings)
    # Before the optimizer is made: it takes only the parameters that still need a gradient.
    freeze(scorer.model, stage.optimizer.freeze)
    if config.lora:
        add_adapters(scorer.model, config.lora, seed)
    if config.gradient_checkpointing:
        checkpoint_gradients(scorer.model)
    engine, *_ = deepspeed.initialize(model=scorer, optimizer=_optimizer(stage, scorer), config=settings)
    reference: Any = None
    if stage.policy_loss and stage.policy_loss.kl_coef > 0:
        reference = BasePolicy(scorer, scorer.model) if config.lora else _frozen_copy(stage, config, forbidden_ids, device)
    return StageState(
        stage=stage,
        layout=config.layout,
        device=device,
        engine=engine,
        reference=reference,
        prompts=PromptCache(prompts, TokenPositions(scorer.model)),
        filler_id=prompts.eos_id,
        forbidden_ids=forbidden_ids,
    )


def _scorer(stage: Stage, config: LearnerConfig, forbidden_ids: frozenset[int], settings: dict[str, Any]) -> TokenScorer:
    shards_weights = settings["zero_optimization"]["stage"] == 3
    # ZeRO-3 shards while it loads: a single rank may not have room for the whole model.
    model = load_model(stage.model_path, config.dtype, config.layout, settings if shards_weights else None)
    return TokenScorer(model, forbidden_ids, stage.temperature)


def _optimizer(stage: Stage, scorer: TokenScorer) -> torch.optim.AdamW:
    section = stage.optimizer
    parameters = [parameter for parameter in scorer.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, lr=section.learning_rate, betas=section.betas, weight_decay=section.weight_decay, fused=True)


def _frozen_copy(stage: Stage, config: LearnerConfig, forbidden_ids: frozenset[int], device: torch.device) -> Any:
    """Return the stage's first model for the KL term: whole on every rank, or sharded by ZeRO-3."""
    import deepspeed

    settings = reference_config(config)
    reference = _scorer(stage, config, forbidden_ids, settings).requires_grad_(False).eval()
    if settings["zero_optimization"]["stage"] != 3:
        return reference.to(device)
    engine, *_ = deepspeed.initialize(model=reference, config=settings)
    return engine
