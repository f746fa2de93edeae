"""The other side of `benchmarks.corruptions`: the published generator, run by a Python that has it.

It needs numpy below 1.24 and scikit-image below 0.20, so it lives in an environment of its own (-I: not beside the
other benchmarks, whose names are also the standard library's):

    uv venv --python 3.9 REFERENCE
    uv pip install --python REFERENCE/bin/python imagecorruptions==1.1.2 "numpy<1.24" scikit-image==0.19.3 \
        scikit-learn "opencv-python-headless<4.9" "scipy<1.11" "setuptools<81"

    REFERENCE/bin/python -I benchmarks/corruptions_reference.py crops OUT.npz          # 20 crops of 6 photographs
    REFERENCE/bin/python -I benchmarks/corruptions_reference.py corrupt IN.npz OUT.npz # corrupted, or statistics of it
    REFERENCE/bin/python -I benchmarks/corruptions_reference.py speed IN.npz           # CPU seconds per image
    REFERENCE/bin/python -I benchmarks/corruptions_reference.py fixtures FOLDER        # those of tests/evaluation
    REFERENCE/bin/python -I benchmarks/corruptions_reference.py frost                  # where its textures are
"""

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# deterministic ones are compared pixel by pixel, the others by statistics over so many draws per crop
DETERMINISTIC = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
DRAWS = {
    "gaussian_noise": 2,
    "shot_noise": 2,
    "impulse_noise": 2,
    "glass_blur": 1,
    "motion_blur": 20,
    "snow": 20,
    "frost": 20,
    "fog": 50,
    "elastic_transform": 10,
}
SEVERITIES = range(1, 6)
PHOTOGRAPHS = {"astronaut": 4, "chelsea": 4, "coffee": 3, "rocket": 3, "china": 3, "flower": 3}  # crops of each
FREE = ("astronaut", "chelsea", "coffee", "rocket")  # in the public domain: those that are committed
CROP_PX = 224
STRIDE = 5  # of the pixels that a fixture keeps


def photographs() -> dict[str, NDArray]:
    """The colour photographs that scikit-image and scikit-learn bring: name -> uint8 [H, W, 3]."""
    import skimage.data
    from sklearn.datasets import load_sample_images

    found = {name: getattr(skimage.data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")}
    samples = load_sample_images()
    for file, image in zip(samples.filenames, samples.images):  # noqa: B905 (an older Python has no strict)
        found[Path(file).stem] = image
    return found


def crops() -> tuple[NDArray, list[str]]:
    """Crops at seeded places: uint8 [20, 224, 224, 3], and the photograph of each."""
    random = np.random.RandomState(0)
    pictures, cut, names = photographs(), [], []
    for name, number in PHOTOGRAPHS.items():
        for _ in range(number):
            row, column = (random.randint(0, side - CROP_PX + 1) for side in pictures[name].shape[:2])
            cut.append(pictures[name][row : row + CROP_PX, column : column + CROP_PX])
            names.append(name)
    return np.stack(cut), names


def statistics(image: NDArray, clean: NDArray) -> NDArray:
    """An image's means of level, level^2, squared difference of neighbours and change, and 1, to be summed: [5]."""
    levels = image.astype(np.float64)
    rough = (np.diff(levels, axis=0)[:, :-1] ** 2 + np.diff(levels, axis=1)[:-1] ** 2).mean()
    return np.array([levels.mean(), (levels**2).mean(), rough, np.abs(levels - clean).mean(), 1.0])


def corrupted(images: NDArray, factor: int = 1) -> dict[str, NDArray]:
    """name_severity -> uint8 [N, 224, 224, 3] of the deterministic ones, of the others the sum of `statistics`.

    `factor` x DRAWS corruptions of each crop go into a sum.
    """
    from imagecorruptions import corrupt

    np.random.seed(0)
    found = {}
    for severity in SEVERITIES:
        for name in DETERMINISTIC:
            found[f"{name}_{severity}"] = np.stack([corrupt(image, severity, name) for image in images])
        for name, draws in DRAWS.items():
            repeated = [image for image in images for _ in range(factor * draws)]
            sums = [statistics(corrupt(image.copy(), severity, name), image) for image in repeated]
            found[f"{name}_{severity}"] = np.sum(sums, axis=0)
    return found


def speed(images: NDArray) -> dict[str, float]:
    """CPU seconds per image, the mean over severities: name -> number."""
    import cv2
    from imagecorruptions import corrupt, get_corruption_names

    cv2.setNumThreads(1)
    seconds = {}
    for name in get_corruption_names():
        corrupt(images[0], 1, name)
        chosen = images[: max(1, len(images) // (20 if name in ("glass_blur", "frost") else 1))]
        started = time.process_time()
        for severity in SEVERITIES:
            for image in chosen:
                corrupt(image, severity, name)
        seconds[name] = (time.process_time() - started) / len(SEVERITIES) / len(chosen)
    return seconds


def pattern(number: int) -> NDArray:
    """A texture that can be written down, for the fixtures: uint8 [300, 400, 3]."""
    y, x = np.mgrid[:300, :400]
    waves = [np.sin((number + 3) * x / 40.0 + channel) * np.cos((number + 2) * y / 50.0) for channel in range(3)]
    return (np.stack(waves, axis=2) * 80 + 150).astype(np.uint8)


def fixtures(folder: Path) -> None:
    """A crop of each free photograph, of their deterministic corruptions every 5th pixel, statistics of the others."""
    import imagecorruptions.corruptions as generator
    from PIL import Image

    cut, names = crops()
    chosen = [names.index(name) for name in FREE]
    for name, index in zip(FREE, chosen):  # noqa: B905
        Image.fromarray(cut[index]).save(folder / f"{name}.png", optimize=True)
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(6):  # the generator opens them by name, whatever is in them
            Image.fromarray(pattern(number)).save(f"{scratch}/{number}.png")
        generator.resource_filename = lambda _, path: f"{scratch}/{int(path.rpartition('frost')[2][0]) - 1}.png"
        found = corrupted(cut[chosen], factor=4)
    kept = {name: value[:, ::STRIDE, ::STRIDE] if value.ndim == 4 else value for name, value in found.items()}
    np.savez_compressed(folder / "imagecorruptions.npz", **kept)


def main(task: str, *paths: str) -> None:
    """Do what the first word says; see the top."""
    warnings.simplefilter("ignore")
    if task == "crops":
        cut, names = crops()
        np.savez(paths[0], images=cut, names=names)
    elif task == "corrupt":
        np.savez(paths[1], **corrupted(np.load(paths[0])["images"]))
    elif task == "speed":
        print(json.dumps(speed(np.load(paths[0])["images"])))
    elif task == "fixtures":
        fixtures(Path(paths[0]))
    else:
        import imagecorruptions

        print(Path(imagecorruptions.__file__).parent / "frost")


if __name__ == "__main__":
    main(*sys.argv[1:])
