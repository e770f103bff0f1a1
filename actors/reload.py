"""How an engine takes new weights: in place where it computes with packed matrices on a CPU, by vLLM's layerwise reload elsewhere."""

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
"""Order of the parts of an attention projection; those of others are numbered."""


def packs_in_place(config: VllmConfig) -> bool:
    """Return whether every matrix is whole in this process and computed with as a packed copy that shares nothing with it."""
    parallel = config.parallel_config
    return (
        current_platform.is_cpu()
        and not current_platform.is_zen_cpu()  # may compute with the matrix itself
        and config.quant_config is None
        and parallel.tensor_parallel_size * parallel.pipeline_parallel_size == 1
    )


class LayerwiseReload:
    """vLLM's own way, for every device, sharding and quantisation: each layer is built again when its last part has come."""

    def __init__(self, model: nn.Module, model_config: Any) -> None:
        self._model = model
        self._model_config = model_config
        initialize_layerwise_reload(model)

    def unfinished(self) -> list[str]:
        """Return the layers of which only a part has come. Embeddings are padded, and always short of the padding."""
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
    """Packs each matrix straight from the memory of its parts; all other tensors are copied over their old values.

    vLLM's way copies each matrix before it packs it, and packs on one thread.
    """

    def __init__(self, model: nn.Module, model_config: Any) -> None:
        self._threads = ThreadPoolExecutor(torch.get_num_threads())
        self._matrices = []
        for name, layer in model.named_modules():
            # A packed matrix leaves an empty parameter behind; one that was left as it is takes a new one by its own loader.
            if isinstance(layer, LinearBase) and layer.weight.numel() == 0:
                matrix = _Matrix(name, layer, self._threads)
                layer.weight.weight_loader = matrix.take
                self._matrices.append(matrix)

    def unfinished(self) -> list[str]:
        """Return the layers of which only a part has come, when all that are complete are packed."""
        self._threads.shutdown()
        # `result` raises the error of a packing that failed in a thread, where nobody would notice.
        for matrix in self._matrices:
            if matrix.packed is not None:
                matrix.packed.result()
        return [matrix.name for matrix in self._matrices if matrix.is_partial]

    def finish(self) -> None:
        """Return when nothing is being packed: then every layer of which all has come is in place."""
        self._threads.shutdown()


class _Matrix:
    """The weight of one linear layer on its way in."""

    def __init__(self, name: str, layer: LinearBase, threads: ThreadPoolExecutor) -> None:
        self.name = name
        self.packed: Future | None = None
        """Set once all parts have come."""
        self._layer = layer
        self._threads = threads
        self._parts: dict[int, Tensor] = {}
        """Rows that wait for the others."""

    @property
    def is_partial(self) -> bool:
        """Whether rows have come, but not all of them."""
        return bool(self._parts)

    def take(self, parameter: nn.Parameter, part: Tensor, shard: str | int | None = None) -> None:
        """Take some of the rows; with the last ones the matrix is packed, in the background."""
        self._parts[QKV[shard] if isinstance(shard, str) else shard or 0] = part
        # Not before the last part: a packed matrix cannot take rows any more.
        if sum(len(rows) for rows in self._parts.values()) == self._layer.output_size:
            parts = [self._parts[place].to(parameter.dtype) for place in sorted(self._parts)]
            self._parts = {}  # one that was made for this update goes when it is packed
            self.packed = self._threads.submit(self._pack, parts)

    def _pack(self, parts: Sequence[Tensor]) -> None:
        self._layer.weight = nn.Parameter(_joined(parts), requires_grad=False)
        pack_anew(self._layer)


def pack_anew(layer: nn.Module) -> None:
    """Pack a layer's weight; the packed matrix from before goes first, so that the one to come takes its place in memory."""
    layer.cpu_linear = None
    with torch.no_grad():
        layer.quant_method.process_weights_after_loading(layer)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Return the parts below each other; not copied if that is how they lie in memory."""
    first = parts[0]
    end = first.data_ptr()
    for part in parts:
        # Neighbours by chance have two storages, and a view must not reach from one into the other.
        if part.data_ptr() != end or part.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return torch.cat(list(parts))
        end += part.nbytes
    num_rows = sum(len(part) for part in parts)
    return first.as_strided((num_rows, *first.shape[1:]), first.stride())
