"""The receiving end of a weight update, inside vLLM's engine process.

vLLM imports this module in each of its worker processes because the rollout worker names `WeightReceiver` as its worker
extension; importing it registers the backend `safetensors_file` with vLLM's weight-transfer API. A version arrives as the
path of a safetensors file in memory, and is pulled from there.
"""

import hashlib
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

BACKEND = "safetensors_file"


@dataclass
class InitInfo(WeightTransferInitInfo):
    """Nothing: a file needs no rendezvous."""


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """Where one version lies."""

    path: str = ""
    """A safetensors file that this process can open."""
    checksums: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each tensor's bytes, by its Hugging Face name."""


def tensor_checksum(tensor: torch.Tensor) -> str:
    """Return the SHA-256 of a tensor's bytes, as the learner computes it before it publishes."""
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy()).hexdigest()


class SafetensorsFileEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
    """Loads a complete set of weights from a safetensors file into the running model."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """Do nothing: a file needs no rendezvous."""

    def start_weight_update(self) -> None:
        """Prepare every layer to take checkpoint-format weights again."""
        self._expected = {name for name, _ in self.model.named_parameters()}  # tied ones once, as in a checkpoint
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Load all tensors of the file; raises RuntimeError if one is missing, unknown or damaged."""
        unread = set(update_info.checksums)
        written = self.model.load_weights(self._tensors(update_info, unread))
        if lacking := sorted(unread) + sorted(self._expected - written):
            raise RuntimeError(f"weight update leaves {len(lacking)} tensors as they were, for example {lacking[0]}")

    def _tensors(self, update_info: UpdateInfo, unread: set[str]) -> Iterator[tuple[str, torch.Tensor]]:
        with safe_open(update_info.path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                tensor = file.get_tensor(name)
                if tensor_checksum(tensor) != update_info.checksums.get(name):
                    raise RuntimeError(f"weight update: tensor {name} is not what the learner published")
                unread.discard(name)
                yield name, tensor

    def finish_weight_update(self) -> None:
        """Put the loaded weights into place.

        On a CPU every layer computes with a packed copy of its weight. vLLM 0.32 packs anew only what was loaded under its own
        name; an output head tied to the embedding never is, and would go on with the weights of the engine's start.
        """
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            for module in self.model.modules():
                if isinstance(module, ParallelLMHead):
                    module.quant_method.process_weights_after_loading(module)

    def shutdown(self) -> None:
        """Do nothing: nothing is held between updates."""


class WeightReceiver:
    """Named as vLLM's worker extension so that this module is imported in the engine's processes."""


def exit_with_parent() -> None:
    """End this process within a second of its parent's end, so that a killed rollout worker leaves no engine behind."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="exit-with-parent").start()


WeightTransferEngineFactory.register_engine(BACKEND, SafetensorsFileEngine)
if multiprocessing.parent_process() is not None:
    exit_with_parent()
