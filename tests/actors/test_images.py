"""A worker decodes an image once, whatever it is called, and never takes one for another."""

from pathlib import Path

import pytest

from actors.images import DecodedImages
from ovt_ray.core.errors import DataError
from tests.learner.plain_torch import picture, problem

RED, BLUE = picture((40, 20), "red"), picture((20, 30), "blue")


def test_an_image_is_decoded_once_and_one_that_took_its_place_in_the_file_is_another(tmp_path: Path) -> None:
    images = DecodedImages(max_pixels=10_000)
    file = tmp_path / "picture.png"
    file.write_bytes(RED)
    [(name, red), (same_name, same)] = images.of(problem("two", str(file), RED))
    assert (same_name, same) == (name, red) and same is red
    assert red.size == (40, 20) and red.getpixel((0, 0)) == (255, 0, 0)
    file.write_bytes(BLUE)
    [(other_name, blue)] = images.of(problem("one", str(file)))
    assert other_name != name and blue.getpixel((0, 0)) == (0, 0, 255)


def test_only_what_was_shown_last_is_kept() -> None:
    images = DecodedImages(max_pixels=10_000, kept_bytes=3 * (40 * 20 + 20 * 30))
    [(_, red), (_, blue)] = images.of(problem("both", RED, BLUE))
    [(_, again)] = images.of(problem("red", RED))
    assert again is red
    images.of(problem("a third one", picture((10, 10), "green")))
    [(_, kept), (_, anew)] = images.of(problem("both", RED, BLUE))
    assert kept is red and anew is not blue and anew.tobytes() == blue.tobytes()


def test_large_images_are_scaled_down_and_what_is_none_is_refused_by_name() -> None:
    images = DecodedImages(max_pixels=200)
    [(_, image)] = images.of(problem("large", RED))
    assert image.size == (20, 10)
    with pytest.raises(DataError, match="problem broken"):
        images.of(problem("broken", b"no image"))
