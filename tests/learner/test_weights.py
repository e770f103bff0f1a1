"""The hand-over's parts: what is published is the parameters' own bytes, and a worker's child finds them where they lie."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from safetensors.torch import load_file

from actors.shared_memory import in_shared_memory
from learner import weights
from learner.adapters import PlainWeight
from learner.model import load_model
from learner.weights import on_the_wire, weight_buckets

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker of Ray cannot import a test

READ = "import os, sys; f = os.open(sys.argv[1], os.O_RDONLY); sys.stdout.buffer.write(os.pread(f, int(sys.argv[3]), int(sys.argv[2])))"


def read_elsewhere(path: str, offset: int, num_bytes: int) -> bytes:
    """Return what another process finds at a place."""
    return subprocess.run([sys.executable, "-c", READ, path, str(offset), str(num_bytes)], capture_output=True, check=True).stdout


@ray.remote
class Worker:
    def found_by_a_child(self, references: list) -> tuple[list[bytes], set[str], str]:
        arrays = [array for reference in references for array in ray.get(reference)]
        with in_shared_memory(arrays) as places:
            found = [read_elsewhere(place.path, place.offset, array.nbytes) for place, array in zip(places, arrays, strict=True)]
            return found, {place.path for place in places}, f"/proc/{os.getppid()}/fd/"


def test_a_child_reads_the_object_store_itself_and_no_copy_is_made(ray_session: None) -> None:
    numbers = np.random.default_rng(0).integers(0, 256, (5, 300_001), dtype=np.uint8)
    worker = Worker.remote()
    found, paths, folder_of_the_store = ray.get(worker.found_by_a_child.remote([ray.put([*numbers[:2]]), ray.put([*numbers[2:]])]))
    assert found == [row.tobytes() for row in numbers]
    assert len(paths) == 1 and paths.pop().startswith(folder_of_the_store)
    ray.kill(worker)


def test_bytes_that_no_other_process_can_map_are_copied_to_where_it_can() -> None:
    arrays = [np.frombuffer(bytes(range(size)), dtype=np.uint8) for size in (100, 64, 1)]
    with in_shared_memory(arrays) as places:
        assert [read_elsewhere(place.path, place.offset, array.nbytes) for place, array in zip(places, arrays, strict=True)] == [
            array.tobytes() for array in arrays
        ]
        assert [place.offset % 64 for place in places] == [0, 0, 0]  # every dtype is aligned
    assert not os.path.exists(places[0].path)


@pytest.mark.parametrize("keep", [True, False])
def test_buckets_hold_the_parameters_themselves_by_the_names_of_the_folder(tiny_model: Path, keep: bool) -> None:
    model = load_model(str(tiny_model), "float32", "padded", None)
    seen: dict[str, torch.Tensor] = {}
    for bucket in weight_buckets(model, keep):
        assert not seen.keys() & bucket.keys()
        seen.update(bucket)
    if not keep:
        assert not seen
        return
    expected = load_file(tiny_model / "model.safetensors")
    assert seen.keys() == expected.keys() and all(torch.equal(seen[name], expected[name]) for name in expected)
    assert {tensor.data_ptr() for tensor in seen.values()} == {parameter.data_ptr() for parameter in model.parameters()}
    assert {tensor.content.ctypes.data for tensor in on_the_wire(seen)} == {parameter.data_ptr() for parameter in model.parameters()}


def test_a_bucket_ends_with_the_parameter_that_fills_it() -> None:
    full = weights.GATHER_ELEMENTS
    named = [
        PlainWeight(name=str(size), base=torch.nn.Parameter(torch.empty(size, device="meta")), adapter=None, scale=0.0)
        for size in (full - 1, 1, 5, full, 2)
    ]
    assert [[weight.name for weight in bucket] for bucket in weights._buckets(named)] == [
        [str(full - 1), "1"],
        ["5", str(full)],
        ["2"],
    ]


def test_what_travels_is_a_tensor_row_by_row_in_its_own_dtype() -> None:
    matrix = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=torch.bfloat16).t()
    [sent] = on_the_wire({"m": matrix})
    assert (sent.name, sent.dtype, sent.shape) == ("m", "bfloat16", (3, 2))
    # the upper halves of float32's 1, 4, 2, 5, 3, 6
    assert sent.content.view(np.uint16).tolist() == [0x3F80, 0x4080, 0x4000, 0x40A0, 0x4040, 0x40C0]
