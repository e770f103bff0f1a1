"""The receiving end of a weight update, inside vLLM's engine process.

vLLM imports this module in each of its worker processes because the rollout worker names `WeightExtension` as its worker
extension. The import registers the backend `learner` with vLLM's weight-transfer API.

A version arrives in one of two ways. Either the engine reads its tensors from files in memory, or it receives them through a group that
its processes have joined.
"""

import mmap
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

from actors.reload import InPlaceReload, LayerwiseReload, pack_anew, packs_in_place
from actors.worker import WORKER_PID
from ovt_ray.core.weights.adapters import merged
from ovt_ray.core.weights.broadcast import Group, checksum, content_of
from ovt_ray.core.weights.meeting import Meeting

BACKEND = "learner"


@dataclass
class InitInfo(WeightTransferInitInfo):
    """The group that the engine's processes are to join, in place of the group before."""

    meeting: dict[str, Any]
    """Fields of a `Meeting`."""
    first_rank: int
    """Rank in the group of the engine's first process; the other processes follow."""


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """The places of one version's tensors."""

    tensors: list[tuple[str, str, tuple[int, ...], str, int]] = field(default_factory=list)
    """Hugging Face name, dtype and shape of each tensor, and path and offset of its bytes for this process."""
    adapters: list[tuple[str, float, str, str]] = field(default_factory=list)
    """Name of the tensor that each adapter is added to, its scale, and the names of B and A; all three tensors are among `tensors`."""
    is_complete: bool = True
    """Whether the whole model is there; else only tensors with an adapter are, of a base that the engine has loaded before."""
    checksums: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each tensor's bytes by its name; empty for a version that is not checked."""
    is_broadcast: bool = False
    """Whether the version comes through the group; all other fields are then empty."""


class LearnerWeights(WeightTransferEngine[InitInfo, UpdateInfo]):
    """Loads a version of the learner's weights into the running model.

    Errors are kept until the worker asks for them, and are not raised. In an engine that is split over processes, one process may fail
    in a call. vLLM 0.32 would then take the other processes' answers to this call for answers to the next. After an error the engine can
    begin another update.
    """

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """Join a group; returns when all of its members have joined."""
        # First: no member of the group before may wait for this process any longer.
        self.shutdown()
        self.failure = ""
        try:
            meeting = Meeting(**init_info.meeting)
            self._group = Group(meeting, meeting.store(), init_info.first_rank + self.parallel_config.rank, self.device)
        except Exception as error:
            self.failure = str(error) or repr(error)

    def start_weight_update(self) -> None:
        """Prepare every layer to take checkpoint-format weights again."""
        self._all = {name for name, _ in self.model.named_parameters()}  # tied ones once, as in a checkpoint
        # Made for each update: its loaders hang on this update's parameters, and its threads end with it.
        reload = InPlaceReload if packs_in_place(self.vllm_config) else LayerwiseReload
        self._reload = reload(self.model, self.model_config)

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Load all tensors, adapters merged; a missing, unknown or damaged tensor is a failure."""
        # False until all is written: a head must not be packed from half a version.
        self.failure, self._is_complete = "", False
        try:
            if update_info.is_broadcast:
                self._receive()
            else:
                self._read(update_info)
        except Exception as error:
            self.failure = str(error) or repr(error)

    def _read(self, update_info: UpdateInfo) -> None:
        sent = _Sent(update_info, self._map({path for *_, path, _ in update_info.tensors}))
        apart = {part for name, _, up, down in update_info.adapters for part in (name, up, down)}
        written = self.model.load_weights((name, sent.read(name)) for name in sent.names if name not in apart)
        changed = self.model.load_weights((adapter[0], self._merged(sent, adapter)) for adapter in update_info.adapters)
        # Without a base, every parameter of the last adapters must change: an adapter that is gone would stay in it.
        expected = self._all if update_info.is_complete else self._adapted
        # After both loads: they read lazily, so `unread` is not known before.
        self._check_written(sent.unread, expected - written - changed)
        # After the check: a failed update must not lower the demands on the next one.
        self._adapted = changed
        self._is_complete = update_info.is_complete

    def _receive(self) -> None:
        assert self._group
        try:
            received = self._group.received()
            written = self.model.load_weights(received)
            # Reads on what the model left unread: in each bucket the other members wait for this process.
            self._check_written((name for name, _ in received), self._all - written)
        except Exception as error:
            self._group.ended(str(error) or repr(error))  # or all other members would wait until the deadline
            raise
        self._adapted, self._is_complete = set(), True

    def _check_written(self, unread: Iterable[str], unwritten: set[str]) -> None:
        lacking = sorted(unread) + sorted(unwritten) + self._reload.unfinished()
        if lacking:
            raise RuntimeError(f"weight update leaves {len(lacking)} tensors as they were, for example {lacking[0]}")

    def _merged(self, sent: "_Sent", adapter: tuple[str, float, str, str]) -> torch.Tensor:
        """Return a tensor with its adapter, computed on the engine's device."""
        name, scale, up, down = adapter
        base, b, a = (sent.read(part).to(self.device) for part in (name, up, down))
        return merged(base, up=b, down=a, scale=scale)

    def _map(self, paths: set[str]) -> dict[str, torch.Tensor]:
        """Return the bytes of each file, (num_bytes,) uint8, read only in effect: writes would stay in this process.

        The object store stays mapped from update to update, because finding its pages again takes as long as copying them. Files that a
        worker copied for this update alone do not stay mapped, because that would hold their memory.
        """
        mapped, kept = {}, {}
        for path in paths:
            file = os.open(path, os.O_RDONLY)
            try:
                status = os.fstat(file)
                key = (path, status.st_dev, status.st_ino, status.st_size)
                if (content := self._files.get(key)) is None:
                    content = torch.frombuffer(mmap.mmap(file, 0, mmap.MAP_PRIVATE), dtype=torch.uint8)
                mapped[path] = content
                if not os.readlink(path).startswith("/memfd:"):
                    kept[key] = content
            finally:
                os.close(file)
        self._files = kept
        return mapped

    def finish_weight_update(self) -> None:
        """Put the loaded weights into place.

        On a CPU every layer computes with a packed copy of its weight. vLLM 0.32 packs only layers that were loaded under their own names.
        An output head that is tied to the embedding never is, and would go on with the weights of the engine's start.
        """
        # First: the head is packed from the weight that this puts into place.
        self._reload.finish()
        if self.device.type == "cpu" and self._is_complete:
            for module in self.model.modules():
                if isinstance(module, ParallelLMHead):
                    pack_anew(module)

    def shutdown(self) -> None:
        """Let go of the files and leave the group."""
        self._files = {}
        if self._group:
            self._group.close()
            self._group = None

    failure = ""
    """Why the last call failed; empty if it did not."""
    _group: Group | None = None
    _is_complete = False
    """Whether the last update brought the whole model."""
    _adapted: set[str] = set()
    """Parameters that the adapters of the last update changed; replaced, never changed."""
    _files: dict[tuple[str, int, int, int], torch.Tensor] = {}
    """Bytes of the files of the last update by path, device, inode and size; replaced, never changed."""


class _Sent:
    """The tensors of a version, read where they lie."""

    def __init__(self, update_info: UpdateInfo, files: dict[str, torch.Tensor]) -> None:
        self._places = {tensor[0]: tensor for tensor in update_info.tensors}
        self._checksums = update_info.checksums
        self._files = files
        self.unread = set(update_info.checksums) | set(self._places)
        """Names of the tensors that are not read yet."""

    @property
    def names(self) -> list[str]:
        """Names of the tensors in the order of the model's folder."""
        return list(self._places)

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor, not copied; raises RuntimeError if it is missing or damaged."""
        if name not in self._places:
            raise RuntimeError(f"weight update: tensor {name} was not sent")
        _, dtype_name, shape, path, offset = self._places[name]
        dtype = getattr(torch, dtype_name)
        num_bytes = torch.Size(shape).numel() * dtype.itemsize
        tensor = self._files[path][offset : offset + num_bytes].view(dtype).view(*shape)
        # Before the model gets it: damaged bytes must not reach a layer.
        if self._checksums and checksum(content_of(tensor)) != self._checksums.get(name):
            raise RuntimeError(f"weight update: tensor {name} is not what the learner published")
        self.unread.discard(name)
        return tensor


class WeightExtension:
    """The methods that vLLM adds to its own worker class."""

    weight_transfer_engine: LearnerWeights

    def weight_failure(self) -> str:
        """Return why the last call for weights failed in this process; empty if it succeeded."""
        return self.weight_transfer_engine.failure


def exit_with_worker(parent: int, worker: int) -> None:
    """End this process within a second of the rollout worker's end, so that a killed one leaves no engine behind.

    The processes of a split engine are children of the engine's own process, in which no code of ours runs: they end it too.
    """

    def watch() -> None:
        while os.getppid() == parent and worker in (parent, _parent_of(parent)):
            time.sleep(0.5)
        # Before our own end: no code of ours runs in that process, and nobody else would end it.
        if parent != worker and os.getppid() == parent:  # it lives, or it would not be our parent
            os.kill(parent, signal.SIGKILL)
        # Not `sys.exit`, which would end this thread alone.
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="exit-with-worker").start()


def _parent_of(process: int) -> int | None:
    """Return the parent of a process; None if that has ended."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(process).ppid()
    return None


WeightTransferEngineFactory.register_engine(BACKEND, LearnerWeights)
if (_parent := multiprocessing.parent_process()) and _parent.pid:
    exit_with_worker(_parent.pid, int(os.environ.get(WORKER_PID, _parent.pid)))
