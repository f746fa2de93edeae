"""Evaluation images are found among the unlabelled ones: by their bytes, and copies of them by their looks."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from noisystudent_core import stages
from noisystudent_core.config import ExclusionsConfig, FingerprintConfig, IngestConfig, PrepareConfig
from noisystudent_core.data import duplicates
from noisystudent_core.data.ingest import image_id
from noisystudent_core.data.schemas import EXCLUSIONS, NEAR_EXCLUSIONS, from_bytes
from noisystudent_core.errors import DataError
from noisystudent_core.stages import pairs
from noisystudent_core.storage.manifest import Artifact, artifact_url, input_digests
from tests.data.test_duplicates import photograph
from tests.stages.small import Told

Picture = Callable[..., bytes]
Images = Callable[[str, Sequence[bytes]], str]
NEAR = ExclusionsConfig(near_radius=4)


def photo(number: int, quality: int = 95) -> bytes:
    file = io.BytesIO()
    photograph(number, 96, 64).save(file, "JPEG", quality=quality)
    return file.getvalue()


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


def excluded(
    root: str, config: ExclusionsConfig, told: Any = None, **inputs: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows, and the counts by reason."""
    stages.exclusions(config, inputs, root, *([told] if told else []))
    artifact = Artifact.open(artifact_url(config, input_digests(inputs), root))
    schema = EXCLUSIONS if config == ExclusionsConfig() else NEAR_EXCLUSIONS
    rows = from_bytes(artifact.read(artifact.manifest.parts[0]), schema, "part").to_pylist()
    assert [row["image_id"] for row in rows] == sorted({row["image_id"] for row in rows})
    facts = dict(artifact.manifest.facts)
    for reason in {row["reason"] for row in rows}:
        assert facts[reason] == sum(row["reason"] == reason for row in rows)
    return rows, facts


def fingerprints(root: str, unlabelled: str) -> str:
    stages.fingerprint(FingerprintConfig(max_missing=1), {"unlabelled": unlabelled}, root)
    return artifact_url(FingerprintConfig(), input_digests({"unlabelled": unlabelled}), root)


# equal bytes


def test_images_of_every_evaluation_set_are_found_once(memory_root: str, images: Images, picture: Picture) -> None:
    unlabelled = images("unlabelled", [picture(n) for n in (*range(10), 3)])
    validation, test = images("validation", [picture(3), picture(20)]), images("test", [picture(8), picture(3)])
    rows, facts = excluded(memory_root, ExclusionsConfig(), unlabelled=unlabelled, validation=validation, test=test)
    assert [row["image_id"] for row in rows] == sorted(image_id(picture(n)) for n in (3, 8))
    assert facts == {"evaluation_image": 2}


def test_other_bytes_are_another_image(memory_root: str, images: Images, picture: Picture) -> None:
    unlabelled, test = images("unlabelled", [picture(1, kind="PNG")]), images("test", [picture(1, kind="BMP")])
    assert excluded(memory_root, ExclusionsConfig(), unlabelled=unlabelled, test=test) == ([], {"evaluation_image": 0})


@pytest.mark.parametrize("config", [ExclusionsConfig(), NEAR, ExclusionsConfig(near_radius=2, repeat_radius=2)])
def test_without_evaluation_sets_nothing_is_excluded(
    memory_root: str, images: Images, picture: Picture, config: ExclusionsConfig
) -> None:
    rows, facts = excluded(memory_root, config, unlabelled=images("unlabelled", [picture(1)]))
    assert not rows and not any(facts.values())


def test_only_what_is_excluded_decides_the_content(memory_root: str, images: Images, picture: Picture) -> None:
    unlabelled = images("unlabelled", [picture(n) for n in range(6)])
    digests = {
        stages.exclusions(
            ExclusionsConfig(), {"unlabelled": unlabelled, "test": images(name, data)}, memory_root
        ).content_digest
        for name, data in {"one": [picture(2)], "two": [picture(2), picture(30)]}.items()
    }
    assert len(digests) == 1


# looks


@pytest.fixture
def given(images: Images) -> dict[str, str]:
    """Of the unlabelled images 4 is a test image, 5 and 6 are copies of one, 7 of a validation image; two are of 9."""
    numbers = {"validation": [7, 20, 21, 22], "test": [4, 5, 6, 23]}
    sets = {name: images(name, [photo(number) for number in some]) for name, some in numbers.items()}
    copies = [photo(4), *(photo(number, quality=60) for number in (5, 6, 7))]
    others = [photo(number) for number in (8, 9, 11, 12)] + [photo(9, quality=50), b"words", photo(4)]
    return sets | {"unlabelled": images("unlabelled", [*others, *copies])}


def reasons(rows: Sequence[Mapping[str, Any]]) -> dict[bytes, tuple[str, bytes | None]]:
    return {row["image_id"]: (row["reason"], row["resembles"]) for row in rows}


NEAR_COPIES = {
    image_id(photo(4)): ("evaluation_image", None),
    **{image_id(photo(n, quality=60)): ("near_evaluation_image", image_id(photo(n))) for n in (5, 6, 7)},
}


def test_copies_of_evaluation_images_are_found_by_their_looks(memory_root: str, given: dict[str, str]) -> None:
    rows, facts = excluded(memory_root, NEAR, **given)
    assert reasons(rows) == NEAR_COPIES
    assert all(row["distance"] in (0, 2, 4) for row in rows if row["reason"] != "evaluation_image")
    assert facts == {"evaluation_image": 1, "near_evaluation_image": 3, "look_alikes": 0.0}


def test_stored_fingerprints_give_the_same_and_read_no_image(
    memory_root: str, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = excluded(memory_root, NEAR, **given)
    hashed = fingerprints(memory_root, given["unlabelled"])
    read: list[str] = []
    read_part = Artifact.read
    monkeypatch.setattr(Artifact, "read", lambda self, part: read.append(self.url) or read_part(self, part))
    assert excluded(memory_root, NEAR, **given, fingerprints=hashed) == expected
    assert hashed in read and given["unlabelled"] not in read
    exact, facts = excluded(memory_root, ExclusionsConfig(), **given, fingerprints=hashed)
    assert [row["image_id"] for row in exact] == [image_id(photo(4))] and facts == {"evaluation_image": 1}


def test_fingerprints_of_other_images_are_an_error(memory_root: str, given: dict[str, str]) -> None:
    hashed = fingerprints(memory_root, given["test"])
    with pytest.raises(DataError, match=r"fingerprints of other images than .*unlabelled; fingerprint these"):
        excluded(memory_root, NEAR, **given, fingerprints=hashed)


def test_fingerprints_of_a_part_that_was_set_aside_are_none(
    memory_root: str, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hash_part = duplicates.fingerprint

    def fail_with_7(table: pa.Table) -> pa.Table:
        if image_id(photo(7, quality=60)) in table["image_id"].to_pylist():
            raise MemoryError("too many pixels")
        return hash_part(table)

    monkeypatch.setattr(duplicates, "fingerprint", fail_with_7)
    hashed = fingerprints(memory_root, given["unlabelled"])
    (aside,) = Artifact.open(hashed).manifest.facts["set_aside"]
    assert aside["num_images"] == 2
    rows, facts = excluded(memory_root, NEAR, **given, fingerprints=hashed)
    assert {row["image_id"] for row in rows} == {image_id(photo(4)), image_id(photo(5, quality=60))}
    assert facts["near_evaluation_image"] == 1


def test_of_near_repeats_the_smallest_id_is_kept(memory_root: str, given: dict[str, str]) -> None:
    config = ExclusionsConfig(near_radius=4, repeat_radius=4)
    rows, facts = excluded(memory_root, config, **given)
    kept, dropped = sorted(image_id(photo(9, quality=quality)) for quality in (95, 50))
    assert reasons(rows) == NEAR_COPIES | {dropped: ("near_repeated", kept)}
    assert facts == {"evaluation_image": 1, "near_evaluation_image": 3, "near_repeated": 1, "look_alikes": 0.0}
    alone = ExclusionsConfig(repeat_radius=4)
    rows, facts = excluded(memory_root, alone, **given)
    assert set(reasons(rows)) == {image_id(photo(4)), dropped}


def test_order_and_split_of_the_images_do_not_matter(memory_root: str, images: Images, given: dict[str, str]) -> None:
    config = ExclusionsConfig(near_radius=4, repeat_radius=4)
    found = excluded(memory_root, config, **given)
    data = [photo(n, quality=q) for n, q in ((9, 50), (7, 60), (4, 95), (6, 60), (12, 95), (9, 95), (5, 60), (8, 95))]
    turned = images("turned", [*data, photo(11), photo(4)])
    assert excluded(memory_root, config, **given | {"unlabelled": turned}) == found


# hashes that tell too little


def test_images_that_all_look_alike_are_not_taken_for_copies(memory_root: str, images: Images) -> None:
    """A tenth of the test images are near one another: as much of the unlabelled set would be thrown away."""
    test = images("test", [*(photo(n) for n in range(18)), photo(50), photo(50, quality=60)])
    unlabelled = images("unlabelled", [photo(3), photo(4, quality=60), photo(50, quality=40)])
    told = Told([])
    config = ExclusionsConfig(near_radius=4, repeat_radius=4)
    rows, facts = excluded(memory_root, config, told, unlabelled=unlabelled, test=test)
    assert [row["image_id"] for row in rows] == [image_id(photo(3))]
    assert facts == {"evaluation_image": 1, "near_evaluation_image": 0, "near_repeated": 0, "look_alikes": 0.1}
    (message,) = (fields["text"] for event, fields in told.events if event == "message")
    assert message.startswith("no near copies are looked for: 10.0% of 20 evaluation images are within 4 bits")
    assert [fields["name"] for event, fields in told.events if event == "figure"] == ["near-copies"]
    trusted = config.model_copy(update={"max_look_alikes": 0.1})
    rows, facts = excluded(memory_root, trusted, unlabelled=unlabelled, test=test)
    assert facts == {"evaluation_image": 1, "near_evaluation_image": 2, "near_repeated": 0, "look_alikes": 0.1}


# the contact sheet


def test_pairs_are_drawn_with_their_distance(
    memory_root: str, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    draw = pairs.contact_sheet
    monkeypatch.setattr(pairs, "contact_sheet", lambda *of: drawn.append(of) or draw(*of))
    told = Told([])
    rows, _ = excluded(memory_root, ExclusionsConfig(near_radius=4, repeat_radius=4), told, **given)
    distance = {(row["image_id"], row["resembles"]): row["distance"] for row in rows if row["resembles"]}
    ((_, subtitle, shown),) = drawn
    assert subtitle.startswith("4 of 4 pairs") and len(shown) == 4
    for pair in shown:
        bits = distance.pop((image_id(pair.left), image_id(pair.right)))
        assert pair.caption.endswith(f", {bits} bits")
    (figure,) = (fields for event, fields in told.events if event == "figure")
    assert figure["name"] == "near-copies"
    assert Image.open(io.BytesIO(base64.b64decode(figure["png"]))).format == "PNG"


def test_few_parts_are_read_for_the_sheet(
    memory_root: str, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "NUM_PARTS", 3)  # a pair stands in two; the copies of 5 and 6 in the same two
    drawn: list[Any] = []
    monkeypatch.setattr(pairs, "contact_sheet", lambda *of: drawn.append(of) or b"")
    excluded(memory_root, NEAR, Told([]), **given)
    ((_, subtitle, shown),) = drawn
    assert subtitle.startswith(f"{len(shown)} of 3 pairs") and 1 <= len(shown) < 3


def test_equal_bytes_are_not_drawn(memory_root: str, given: dict[str, str]) -> None:
    told = Told([])
    rows, _ = excluded(memory_root, ExclusionsConfig(), told, **given)
    assert len(rows) == 1
    assert told.events == [("progress", {"done": n, "total": 11, "unit": "images"}) for n in (3, 6, 9, 11)]
