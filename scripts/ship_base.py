"""Put a trained base model into the package with its weights in bfloat16: `python scripts/ship_base.py runs/base/iter0/base/model`."""

import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ovt_ray.core.prompts import EMBEDDED_MODEL


def main(model: Path) -> None:
    """Replace the shipped model folder by `model`."""
    shutil.rmtree(EMBEDDED_MODEL, ignore_errors=True)
    shutil.copytree(model, EMBEDDED_MODEL)
    weights = EMBEDDED_MODEL / "model.safetensors"
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    print(f"{EMBEDDED_MODEL}: {sum(file.stat().st_size for file in EMBEDDED_MODEL.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
