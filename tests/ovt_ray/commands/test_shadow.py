"""A working directory that would be imported instead of ours is refused, by the name of the file."""

import subprocess
import sys
from pathlib import Path

import pytest

from ovt_ray.commands.shadow import check_no_shadow
from ovt_ray.core.errors import ConfigError

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", ["reward.py", "actors.py", "learner.py", "ovt_ray.py"])
def test_a_module_with_our_name_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=f"{tmp_path}/{name}: has the name of the package .* rename it, for example to my_{name}"):
        check_no_shadow(tmp_path)


def test_a_package_with_our_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward/__init__.py").touch()
    with pytest.raises(ConfigError, match=f"{tmp_path}/reward: .* rename it, for example to my_reward,"):
        check_no_shadow(tmp_path)


def test_each_of_several_is_named(tmp_path: Path) -> None:
    (tmp_path / "reward.py").touch()
    (tmp_path / "learner.py").touch()
    with pytest.raises(ConfigError, match=r"learner\.py: (.|\n)*reward\.py: "):
        check_no_shadow(tmp_path)


def test_other_files_folders_without_code_and_our_own_checkout_pass(tmp_path: Path) -> None:
    (tmp_path / "my_reward.py").touch()
    (tmp_path / "reward").mkdir()
    check_no_shadow(tmp_path)
    check_no_shadow(CHECKOUT)
    (tmp_path / "link").symlink_to(CHECKOUT)
    check_no_shadow(tmp_path / "link")


def test_the_check_imports_no_service() -> None:
    code = "import sys, ovt_ray.commands.shadow; print([name for name in ('reward', 'actors', 'learner', 'ray') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout == "[]\n"
