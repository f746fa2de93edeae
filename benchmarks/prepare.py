"""`prepare` on a million tiny labelled images in tar files: memory, images a second and core, killed and gone on.

python -m benchmarks.prepare --num-images 1000000
"""

import argparse
import resource
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np

from benchmarks.measuring import circumstances
from noisystudent_core.storage.manifest import Artifact

SIDE_PX, NUM_CLASSES, PER_TAR = 8, 10, 10_000
# a process with nothing else in it
TAKE_IN = """
import sys
from noisystudent_core import stages
from noisystudent_core.config import IngestConfig, PrepareConfig
config = PrepareConfig(ingest=IngestConfig(num_classes=int(sys.argv[3])), shuffle=sys.argv[4] == "True")
stages.prepare(config, {"source": sys.argv[1]}, "", out=sys.argv[2])
"""


def main(num_images: int, shuffle: bool) -> None:
    """Print memory and rate of a whole run and of one that is killed half-way; exit status 1 where they differ."""
    with tempfile.TemporaryDirectory() as scratch:
        source, whole, killed = (Path(scratch) / name for name in ("source", "whole", "killed"))
        write(source, num_images)
        seconds, cpu_seconds, (memory, own) = take_in(source, whole, shuffle)
        print(f"{num_images:,} images of {SIDE_PX} px in tars, shuffle={shuffle}; {circumstances('pyarrow', 'pillow')}")
        print(
            f"whole: {seconds:.0f} s, CPU {cpu_seconds:.0f} s: {num_images / cpu_seconds:,.0f} images a second and "
            f"core, peak memory {memory / 1e6:,.0f} MB, of which {own / 1e6:,.0f} MB are no mapped libraries"
        )
        take_in(source, killed, shuffle, kill_after=seconds / 2)
        left = sum(1 for path in killed.rglob("*.parquet"))
        seconds, cpu_seconds, (memory, _) = take_in(source, killed, shuffle)
        print(f"killed with {left} files written, gone on: {seconds:.0f} s more, peak memory {memory / 1e6:,.0f} MB")
        digests = [Artifact.open(str(folder)).manifest.content_digest for folder in (whole, killed)]
    print(f"the same bytes: {digests[0] == digests[1]} ({digests[0]})")
    sys.exit(digests[0] != digests[1])


def write(folder: Path, num_images: int) -> None:
    """Tars of PNG files, each of its own noise, with labels as `cls`."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for start in range(0, num_images, PER_TAR):
        size = min(PER_TAR, num_images - start)
        pixels = generator.integers(0, 256, (size, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
        with tarfile.open(folder / f"{start // PER_TAR:05d}.tar", "w") as archive:
            for number, image in enumerate(pixels, start):
                _add(archive, f"{number:09d}.png", _png(image))
                _add(archive, f"{number:09d}.cls", str(number % NUM_CLASSES).encode())


def take_in(
    source: Path, out: Path, shuffle: bool, kill_after: float | None = None
) -> tuple[float, float, tuple[int, int]]:
    """Seconds, CPU seconds and peak bytes, in all and without mapped files, of `prepare` in a process of its own."""
    started, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    child = subprocess.Popen([sys.executable, "-c", TAKE_IN, str(source), str(out), str(NUM_CLASSES), str(shuffle)])
    peak = (0, 0)
    while child.poll() is None:
        now = _num_bytes(child.pid)
        peak = (max(peak[0], now[0]), max(peak[1], now[1]))
        if kill_after is not None and time.perf_counter() - started > kill_after:
            child.send_signal(signal.SIGKILL)
        time.sleep(0.2)
    assert kill_after is not None or child.returncode == 0, f"exit status {child.returncode}"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - started, after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime, peak


def _num_bytes(pid: int) -> tuple[int, int]:
    """The most that a process ever held, and what it holds now without mapped files."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    sizes = {line.split(":")[0]: line.split() for line in lines}
    held, own = (int(sizes[name][1]) * 1024 if name in sizes else 0 for name in ("VmHWM", "RssAnon"))
    return held, own


def _png(pixels: np.ndarray) -> bytes:
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, BytesIO(data))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-images", type=int, default=1_000_000)
    parser.add_argument("--shuffle", action="store_true")
    main(**vars(parser.parse_args()))
