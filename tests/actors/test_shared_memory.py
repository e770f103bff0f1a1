"""An engine's process reads a version's bytes from the object store's own memory, or from a copy that it can map."""

import os
import subprocess
import sys

import numpy as np
import ray

from actors.shared_memory import in_shared_memory

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
