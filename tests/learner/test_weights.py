"""A published version is the parameters' own bytes, in buckets, by the names of the model's folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from learner import weights
from learner.adapters import PlainWeight
from learner.model import load_model
from learner.weights import on_the_wire, weight_buckets


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
