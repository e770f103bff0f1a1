"""How an engine takes new weights: in place where a CPU computes with packed matrices, by vLLM's layerwise reload elsewhere."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
from vllm.platforms import current_platform

QKV = {"q": 0, "k": 1, "v": 2}
"""Order of the parts of an attention projection. Parts of all other layers come with numbers."""


def packs_in_place(config: VllmConfig) -> bool:
    """Return whether every matrix is whole in this process, and the engine computes with a separate packed copy of it."""
    parallel = config.parallel_config
    return (
        current_platform.is_cpu()
        and not current_platform.is_zen_cpu()  # may compute with the matrix itself
        and config.quant_config is None
        and parallel.tensor_parallel_size * parallel.pipeline_parallel_size == 1
    )


class LayerwiseReload:
    """Reloads in vLLM's own way, for every device, sharding and quantisation. A layer is built again when its last part has come."""

    def __init__(self, model: nn.Module, model_config: Any) -> None:
        self._model = model
        self._model_config = model_config
        initialize_layerwise_reload(model)

    def unfinished(self) -> list[str]:
        """Return the layers that received only some of their parts. Embeddings do not count: no version brings their padding."""
        lacking = []
        for name, layer in self._model.named_modules():
            progress = get_layerwise_info(layer)
            if (
                progress.can_load()
                and 0 < progress.load_numel < progress.load_numel_total
                and not isinstance(layer, VocabParallelEmbedding)
            ):
                lacking.append(name)
        return lacking

    def finish(self) -> None:
        """Put every layer into place."""
        finalize_layerwise_reload(self._model, self._model_config)


class InPlaceReload:
    """Packs each matrix straight from the memory of its parts. All other tensors are copied over their former values.

    vLLM's way copies each matrix before it packs it, and packs on one thread.
    """

    def __init__(self, model: nn.Module, model_config: Any) -> None:
        self._threads = ThreadPoolExecutor(torch.get_num_threads())
        self._matrices = []
        for name, layer in model.named_modules():
            # A packed matrix leaves an empty parameter behind. A matrix that was not packed takes new weights by its own loader.
            if isinstance(layer, LinearBase) and layer.weight.numel() == 0:
                matrix = _Matrix(name, layer, self._threads)
                layer.weight.weight_loader = matrix.take
                self._matrices.append(matrix)

    def unfinished(self) -> list[str]:
        """Return the layers that received only some of their parts, once all complete layers are packed."""
        self._threads.shutdown()
        # `result` raises the error of a packing that failed in a thread, where nobody would notice.
        for matrix in self._matrices:
            if matrix.packed is not None:
                matrix.packed.result()
        return [matrix.name for matrix in self._matrices if matrix.is_partial]

    def finish(self) -> None:
        """Return when nothing is being packed: every complete layer is then in place."""
        self._threads.shutdown()


class _Matrix:
    """The weight of one linear layer while its parts arrive."""

    def __init__(self, name: str, layer: LinearBase, threads: ThreadPoolExecutor) -> None:
        self.name = name
        self.packed: Future | None = None
        """Packing in the background; None until all parts have come."""
        self._layer = layer
        self._threads = threads
        self._parts: dict[int, Tensor] = {}
        """Rows of each part that wait for the other parts."""

    @property
    def is_partial(self) -> bool:
        """Whether rows have come, but not all of them."""
        return bool(self._parts)

    def take(self, parameter: nn.Parameter, part: Tensor, shard: str | int | None = None) -> None:
        """Take some of the rows. With the last rows the matrix is packed in the background."""
        self._parts[QKV[shard] if isinstance(shard, str) else shard or 0] = part
        # Not before the last part: a packed matrix cannot take rows any more.
        if sum(len(rows) for rows in self._parts.values()) == self._layer.output_size:
            parts = [self._parts[place].to(parameter.dtype) for place in sorted(self._parts)]
            self._parts = {}  # memory of a part that was made for this update is freed after packing
            self.packed = self._threads.submit(self._pack, parts)

    def _pack(self, parts: Sequence[Tensor]) -> None:
        self._layer.weight = nn.Parameter(_joined(parts), requires_grad=False)
        pack_anew(self._layer)


def pack_anew(layer: nn.Module) -> None:
    """Pack a layer's weight. The former packed matrix is freed first, so that the new one takes its place in memory."""
    layer.cpu_linear = None
    with torch.no_grad():
        layer.quant_method.process_weights_after_loading(layer)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Return the parts below each other, without a copy if memory already has them in this order."""
    first = parts[0]
    end = first.data_ptr()
    for part in parts:
        # Neighbours by chance have two storages, and a view must not reach from one into the other.
        if part.data_ptr() != end or part.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return torch.cat(list(parts))
        end += part.nbytes
    num_rows = sum(len(part) for part in parts)
    return first.as_strided((num_rows, *first.shape[1:]), first.stride())
