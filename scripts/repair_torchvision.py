"""Make `import torchvision` work in a virtual environment whose torchvision was built for another torch.

The registry has no CPU build of torchvision for Linux. The CUDA build finds no CUDA libraries next to a CPU torch, so its compiled
operators stay unregistered. Its own `_meta_registrations` then fails with "operator torchvision::nms does not exist". This project uses
only image transforms, which need no such operator. Declaring the two schemas first is enough, in every process. The script therefore
writes a `.pth` file into the environment and patches no product code.

The CUDA builds of torchaudio and torchcodec fail in the same way. transformers imports torchaudio wherever it is installed. This project
uses neither, so the script uninstalls a package that does not import.

    python scripts/repair_torchvision.py PYTHON      # PYTHON: the interpreter of the environment to repair
"""

import subprocess
import sys
from pathlib import Path

FAILURE = "operator torchvision::nms does not exist"
EXTRAS = ("torchaudio", "torchcodec")
HOOK_NAME = "torchvision_schemas"
HOOK = '''"""Declares two operators just before torchvision registers their meta kernels. Written by scripts/repair_torchvision.py."""

import sys

SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


class SchemaFinder:
    """Finds no module. It only notices when torchvision is about to need the schemas."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        if fullname == "torchvision._meta_registrations":
            import torch

            for name, schema in SCHEMAS.items():
                if not hasattr(torch.ops.torchvision, name):
                    torch.library.define(f"torchvision::{name}", schema)
        return None


sys.meta_path.insert(0, SchemaFinder)
'''


def run_python(python: str, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)


def needs_repair(import_error: str) -> bool:
    """True when torchvision failed for the reason that the hook removes."""
    return FAILURE in import_error


def install_hook(site_packages: Path) -> None:
    """Write the hook into a folder where every Python of the environment loads it at its start (0.1 ms, without importing torch)."""
    (site_packages / f"{HOOK_NAME}.py").write_text(HOOK)
    (site_packages / f"{HOOK_NAME}.pth").write_text(f"import {HOOK_NAME}\n")


def repair_torchvision(python: str) -> tuple[bool, str]:
    """Whether torchvision imports in the end, and the line that describes the repair."""
    first = run_python(python, "import torchvision")
    if first.returncode == 0:
        return True, "torchvision imports; nothing to repair"
    if not needs_repair(first.stderr):
        return False, f"torchvision does not import, for a reason this script cannot repair: {last_line(first.stderr)}"
    site_packages = Path(run_python(python, "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    install_hook(site_packages)
    second = run_python(python, "import torchvision")
    if second.returncode != 0:
        return False, f"torchvision still does not import after the repair: {last_line(second.stderr)}"
    return True, f"torchvision repaired: {HOOK_NAME}.pth declares the schemas of nms and qnms"


def remove_broken_extras(python: str) -> list[str]:
    """The names of the packages that did not import and are uninstalled now."""
    broken = [name for name in EXTRAS if is_broken(run_python(python, f"import {name}"), name)]
    if broken:
        subprocess.run([python, "-m", "pip", "uninstall", "-y", "-q", *broken], capture_output=True, check=True)
    return broken


def is_broken(attempt: subprocess.CompletedProcess[str], name: str) -> bool:
    """True when the package exists but fails. An absent package is no failure."""
    return attempt.returncode != 0 and f"No module named '{name}'" not in attempt.stderr


def repair(python: str) -> tuple[int, str]:
    """Exit status and the line that describes the repair."""
    imports, line = repair_torchvision(python)
    removed = remove_broken_extras(python)
    return 0 if imports else 1, line + (f"; removed {' and '.join(removed)}, which cannot be imported with this torch" if removed else "")


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


if __name__ == "__main__":
    status, line = repair(sys.argv[1] if len(sys.argv) > 1 else sys.executable)
    print(line, flush=True)
    sys.exit(status)
