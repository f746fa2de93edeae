"""Evaluation images are found among the unlabelled ones by their bytes, wherever they stand."""

from collections.abc import Callable, Sequence

import pytest

from noisystudent_core import stages
from noisystudent_core.config import ExclusionsConfig, IngestConfig, PrepareConfig
from noisystudent_core.data.ingest import image_id
from noisystudent_core.data.schemas import EXCLUSIONS, from_bytes
from noisystudent_core.storage.manifest import Artifact

Picture = Callable[..., bytes]
Images = Callable[[str, Sequence[bytes]], str]


@pytest.fixture
def images(memory_root: str, write_source: Callable[..., str]) -> Images:
    """`images(name, data)`: the URL of an unlabelled artifact of these images, three a part."""

    def prepare(name: str, data: Sequence[bytes]) -> str:
        source = write_source(f"{memory_root}/{name}.parquet", data)
        url = f"{memory_root}/{name}"
        config = PrepareConfig(ingest=IngestConfig(images_per_part=3), max_bad_fraction=1)
        stages.prepare(config, {"source": source}, memory_root, out=url)
        return url

    return prepare


def excluded(root: str, **inputs: str) -> list[dict[str, bytes | str]]:
    stages.exclusions(ExclusionsConfig(), inputs, root, out=f"{root}/exclusions")
    artifact = Artifact.open(f"{root}/exclusions")
    assert artifact.manifest.facts == {"evaluation_image": artifact.manifest.num_rows}
    return from_bytes(artifact.read(artifact.manifest.parts[0]), EXCLUSIONS, "part").to_pylist()


def test_images_of_every_evaluation_set_are_found_once(memory_root: str, images: Images, picture: Picture) -> None:
    unlabelled = images("unlabelled", [picture(n) for n in (*range(10), 3)])
    validation, test = images("validation", [picture(3), picture(20)]), images("test", [picture(8), picture(3)])
    rows = excluded(memory_root, unlabelled=unlabelled, validation=validation, test=test)
    assert [row["image_id"] for row in rows] == sorted(image_id(picture(n)) for n in (3, 8))
    assert {row["reason"] for row in rows} == {"evaluation_image"}


def test_other_bytes_are_another_image(memory_root: str, images: Images, picture: Picture) -> None:
    unlabelled, test = images("unlabelled", [picture(1, kind="PNG")]), images("test", [picture(1, kind="BMP")])
    assert excluded(memory_root, unlabelled=unlabelled, test=test) == []


def test_without_evaluation_sets_nothing_is_excluded(memory_root: str, images: Images, picture: Picture) -> None:
    assert excluded(memory_root, unlabelled=images("unlabelled", [picture(1)])) == []


def test_only_what_is_excluded_decides_the_content(memory_root: str, images: Images, picture: Picture) -> None:
    unlabelled = images("unlabelled", [picture(n) for n in range(6)])
    digests = {
        stages.exclusions(
            ExclusionsConfig(), {"unlabelled": unlabelled, "test": images(name, data)}, memory_root
        ).content_digest
        for name, data in {"one": [picture(2)], "two": [picture(2), picture(30)]}.items()
    }
    assert len(digests) == 1
