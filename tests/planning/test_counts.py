"""Numbers of images in sources of every kind, and the parts that they become."""

from collections.abc import Callable
from pathlib import Path

import pytest

from noisystudent_core.config import IngestConfig, PrepareConfig
from noisystudent_core.errors import SourceError
from noisystudent_core.planning.counts import Images, assumed, count, sample
from noisystudent_core.stages import prepare


def write_folder(folder: Path, number: int, picture: Callable[..., bytes]) -> str:
    for row in range(number):
        name = folder / f"class {row % 2}" / f"{row:03d}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_bytes(picture(row))
    return str(folder)


def test_parquet_is_counted_by_its_footers(sources: dict[str, str]) -> None:
    found = count(sources["unlabelled"])
    assert (found.number, found.is_exact) == (30, True)
    assert found.num_bytes == Path(sources["unlabelled"]).stat().st_size


def test_of_many_files_some_are_read(tmp_path: Path, picture: Callable[..., bytes], write_source: Callable) -> None:
    """40 files of 2 images: 20 footers are read, the rest is estimated by bytes."""
    for number in range(40):
        write_source(f"{tmp_path}/{number:02d}.parquet", [picture(number), picture(100 + number)])
    found = count(str(tmp_path))
    assert len(found.per_file) == 40
    assert not found.is_exact
    assert found.number == pytest.approx(80, abs=2)


def test_folders_are_estimated_by_a_few_images(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    found = count(write_folder(tmp_path / "images", 50, picture))
    assert not found.is_exact
    assert found.number == pytest.approx(50, abs=2)


def test_a_prepared_artifact_is_counted(sources: dict[str, str], root: str) -> None:
    prepare(PrepareConfig(ingest=IngestConfig(images_per_part=7)), {"source": sources["unlabelled"]}, root, out=root)
    assert count(root).per_file == (7, 7, 7, 7, 2)
    assert count(root).is_prepared and not count(sources["unlabelled"]).is_prepared
    assert len(sample(root, 9)) == 9


@pytest.mark.parametrize(("images_per_part", "bytes_per_part"), [(7, 10**9), (10_000, 20_000), (30, 10**9), (1, 1)])
def test_parts_are_those_that_preparing_makes(
    sources: dict[str, str], root: str, images_per_part: int, bytes_per_part: int
) -> None:
    ingest = IngestConfig(images_per_part=images_per_part, bytes_per_part=bytes_per_part)
    made = len(prepare(PrepareConfig(ingest=ingest), {"source": sources["unlabelled"]}, root).parts)
    planned = count(sources["unlabelled"]).num_parts(images_per_part, bytes_per_part)
    assert planned == pytest.approx(made, abs=1)  # by the mean bytes of an image, a file's own included


def test_on_paper() -> None:
    found = assumed(25, 10, 2.0)
    assert (found.per_file, found.num_bytes, found.num_parts(10, 10**9)) == ((10, 10, 5), 50, 3)
    assert Images((10, 20), 300).share(0.1) == Images((1, 2), 30)
    assert Images((1000,) * 15, 15_000).share(11 / 15).number == 11_000


def test_a_sample_is_the_sources_own_images(sources: dict[str, str], picture: Callable[..., bytes]) -> None:
    found = sample(sources["labelled"], 5)
    assert len(found) == 5
    assert found[0] == picture(0, 0, "PNG")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        count(str(tmp_path / "nowhere"))
