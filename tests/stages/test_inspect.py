"""What an inspection says of sets whose images can be counted by hand."""

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from PIL import Image

from noisystudent_core import stages
from noisystudent_core.config import IngestConfig, InspectConfig, InspectPartsConfig, PrepareConfig
from noisystudent_core.errors import DataError
from noisystudent_core.evaluation import inspection as counted
from noisystudent_core.stages import inspect_repeats
from noisystudent_core.storage.manifest import Artifact, artifact_url, input_digests
from noisystudent_core.storage.prepared import inspection_inputs, refuse_leaks
from tests.data.test_duplicates import photograph
from tests.data.test_inspection import file
from tests.stages.small import Told

Picture = Callable[..., bytes]
Given = tuple[Sequence[bytes], Sequence[int] | None]
NUM_CLASSES = 3
PARTS = InspectPartsConfig()


def photo(number: int, quality: int = 95) -> bytes:
    sink = io.BytesIO()
    photograph(number, 96, 64).save(sink, "JPEG", quality=quality)
    return sink.getvalue()


class Sets:
    """Sets of images under a root, four images a part, and their inspection."""

    def __init__(self, root: str, write_source: Callable[..., str]) -> None:
        self.root, self._write = root, write_source

    def images(self, name: str, data: Sequence[bytes], labels: Sequence[int] | None = None, **ingest: Any) -> str:
        paths = [f"{name}-{number}.jpg" for number in range(len(data))]
        source = self._write(f"{self.root}/sources/{name}.parquet", data, labels, paths)
        given = {"num_classes": None if labels is None else NUM_CLASSES, "images_per_part": 4, **ingest}
        config = PrepareConfig(ingest=IngestConfig(**given), max_bad_fraction=1)
        stages.prepare(config, {"source": source}, self.root)
        return artifact_url(config, input_digests({"source": source}), self.root)

    def inputs(self, **images: str) -> dict[str, str]:
        looked_at = {}
        for name, url in images.items():
            stages.inspect_parts(PARTS, {"images": url}, self.root)
            looked_at[name] = artifact_url(PARTS, input_digests({"images": url}), self.root)
        return inspection_inputs(images, looked_at)

    def inspect(self, told: Any = None, config: Any = None, **images: str) -> Artifact:
        inputs, config = self.inputs(**images), config or InspectConfig()
        stages.inspect(config, inputs, self.root, *([told] if told else []))
        return Artifact.open(artifact_url(config, input_digests(inputs), self.root))

    def of(self, config: Any = None, **sets: Given) -> dict[str, Any]:
        """The numbers of an inspection of these images and labels."""
        images = {name: self.images(name, *given) for name, given in sets.items()}
        return json.loads(self.inspect(config=config, **images).folder.read("inspection.json"))


@pytest.fixture
def sets(memory_root: str, write_source: Callable[..., str]) -> Sets:
    return Sets(memory_root, write_source)


def levels(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(finding["level"], finding["text"]) for finding in found["findings"]]


# counts


def test_classes_sizes_formats_and_damage_are_counted(sets: Sets, picture: Picture) -> None:
    data = [picture(n, kind="PNG", size_px=32) for n in range(5)] + [
        picture(n, kind="JPEG", size_px=16) for n in (5, 6)
    ]
    data += [file("PNG", "P", (40, 24)), file("JPEG", "CMYK"), b"words", picture(9)[:200], b"", b"more words"]
    found = sets.of(labelled=(data, [0, 0, 0, 1, 1, 2, 2, 0, 1, 0, 0, 0, 0]))
    counts = found["sets"]["labelled"]
    assert (counts["num_images"], counts["num_usable"], counts["num_bytes"]) == (13, 9, sum(map(len, data)))
    assert counts["drops"] == {"empty": 1, "not_an_image": 2, "truncated": 1}
    assert counts["damaged"] == [
        {"source": "labelled-9.jpg", "reason": "not_an_image"},
        {"source": "labelled-10.jpg", "reason": "truncated"},
        {"source": "labelled-11.jpg", "reason": "empty"},
        {"source": "labelled-12.jpg", "reason": "not_an_image"},
    ]
    assert counts["class_counts"] == {"0": 4, "1": 3, "2": 2}
    assert {(kind["format"], kind["mode"]): kind["num_images"] for kind in counts["kinds"]} == {
        ("PNG", "RGB"): 5,
        ("JPEG", "RGB"): 2,
        ("PNG", "P"): 1,
        ("JPEG", "CMYK"): 1,
    }
    assert counts["sizes"] == [
        {"height": height, "width": width, "num_images": number}
        for height, width, number in [(32, 32, 5), (16, 16, 2), (12, 20, 1), (24, 40, 1)]
    ]
    assert counts["heights"] == {"least": 12, "median": 32, "greatest": 32}
    assert counts["widths"] == {"least": 16, "median": 32, "greatest": 40}
    assert ("warning", "labelled: 2 images (15.38%) left out: not_an_image") in levels(found)


def test_classes_have_their_names(sets: Sets, picture: Picture) -> None:
    names = ("cat", "dog | wolf", "<b>bird</b>")
    images = sets.images("labelled", [picture(n, n % 3) for n in range(6)], [0, 1, 2, 0, 1, 2], class_names=names)
    artifact = sets.inspect(labelled=images)
    assert json.loads(artifact.folder.read("inspection.json"))["sets"]["labelled"]["class_counts"] == dict.fromkeys(
        names, 2
    )
    text, page = (artifact.folder.read(f"inspection.{kind}").decode() for kind in ("md", "html"))
    assert "| dog \\| wolf |" in text
    assert "&lt;b&gt;bird&lt;/b&gt;" in page
    assert "<b>bird" not in page


def test_imbalance_and_missing_classes_are_told(sets: Sets, picture: Picture) -> None:
    labels = [0] * 20 + [1] * 2 + [2] * 3
    images = sets.images("validation", [picture(n) for n in range(50, 54)], [0, 1, 2, 0])
    artifact = sets.inspect(
        labelled=sets.images("labelled", [picture(n) for n in range(25)], labels), validation=images
    )
    text = artifact.folder.read("inspection.md").decode()
    assert "- **warning**: labelled: 20 images of class '0', 2 of '1'" in text
    numbers = counted.Summary(name="validation", url="")
    numbers.class_counts.update({0: 3})
    other = counted.Summary(name="labelled", url="")
    other.class_counts.update({0: 3, 1: 2})
    found = counted.Inspection(
        config=InspectConfig(),
        sets=[other, numbers],
        class_names={0: "cat", 1: "dog"},
        repeated={"labelled": 0, "validation": 0},
        shared=[],
        look_alikes={},
        near=[],
    )
    assert [finding.text for finding in found.findings] == ["validation: no image of class 'dog', labelled has some"]


def test_nothing_stands_out_of_clean_sets(sets: Sets, picture: Picture) -> None:
    numbers = {"labelled": range(6), "validation": range(10, 13), "test": range(20, 23)}
    given = {name: ([picture(n, n % 3) for n in some], [n % 3 for n in some]) for name, some in numbers.items()}
    found = sets.of(**given, unlabelled=([picture(n) for n in range(30, 40)], None))
    assert found["findings"] == [] and found["leaks"] == 0
    assert found["sets"]["unlabelled"]["num_unlabelled"] == 10


# repeats and leaks


@pytest.mark.parametrize("rows_at_once", [inspect_repeats.ROWS_AT_ONCE, 5])
def test_equal_bytes_within_and_across_sets(
    sets: Sets, picture: Picture, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    monkeypatch.setattr(inspect_repeats, "ROWS_AT_ONCE", rows_at_once)
    numbers = {"labelled": [0, 1, 2, 3, 4, 5], "test": [3, 10, 11], "unlabelled": [20, 21, 20, 20, 21, 3, 10, 5, 22]}
    given = {
        "labelled": ([picture(n) for n in numbers["labelled"]], [n % 3 for n in numbers["labelled"]]),
        "test": ([picture(n) for n in numbers["test"]], [1, 2, 0]),  # 3 is of class 0 in labelled
        "unlabelled": ([picture(n) for n in numbers["unlabelled"]], None),
    }
    found = sets.of(**given)
    assert {name: counts["repeated"] for name, counts in found["sets"].items()} == {
        "labelled": 0,
        "test": 0,
        "unlabelled": 3,
    }
    assert {(p["first"], p["second"]): (p["num_images"], p["num_other_label"]) for p in found["shared"]} == {
        ("labelled", "unlabelled"): (2, 0),
        ("labelled", "test"): (1, 1),
        ("unlabelled", "test"): (2, 0),
    }
    assert found["leaks"] == 3
    assert levels(found)[:3] == [
        ("error", "test: 1 image also in labelled, with equal bytes: remove them from one of the two"),
        ("error", "test: 2 images also in unlabelled, with equal bytes: a run leaves them out"),
        ("warning", "labelled: 1 image with another label in test"),
    ]


def test_leaks_are_refused_unless_allowed(sets: Sets, picture: Picture) -> None:
    labels = [0, 1, 2]
    labelled = sets.images("labelled", [picture(n) for n in (1, 2, 3)], labels)
    leaking = sets.inspect(labelled=labelled, test=sets.images("test", [picture(n) for n in (3, 4, 5)], [2, 0, 1]))
    with pytest.raises(DataError, match=r"test: 1 image also in labelled.*--allow-leaks"):
        refuse_leaks(leaking.url, allowed=False)
    refuse_leaks(leaking.url, allowed=True)
    clean = sets.inspect(labelled=labelled, test=sets.images("other", [picture(n) for n in (6, 7, 8)], labels))
    refuse_leaks(clean.url, allowed=False)


def test_validation_and_test_may_share_images_with_a_warning(sets: Sets, picture: Picture) -> None:
    found = sets.of(
        validation=([picture(n) for n in (1, 2, 3)], [0, 1, 2]), test=([picture(n) for n in (3, 4, 5)], [2, 0, 1])
    )
    assert found["leaks"] == 0
    assert levels(found) == [("warning", "validation: 1 image also in test, with equal bytes")]


def test_damaged_images_are_no_repeats(sets: Sets, picture: Picture) -> None:
    found = sets.of(unlabelled=([b"", b"", picture(1)], None), images=([b"", picture(2)], None))
    assert found["shared"] == []
    assert [counts["repeated"] for counts in found["sets"].values()] == [0, 0]


# looks


def near_copies() -> dict[str, Given]:
    """Of the unlabelled images two are test images compressed again, one is a test image, two are of photograph 9."""
    unlabelled = [photo(n) for n in (8, 9, 11, 12)] + [photo(9, 50), photo(5, 60), photo(6, 60), photo(4)]
    return {"unlabelled": (unlabelled, None), "test": ([photo(n) for n in (4, 5, 6, 23)], [0, 1, 2, 0])}


def test_near_copies_are_told_but_no_leak(sets: Sets) -> None:
    found = sets.of(**near_copies())
    assert found["near"] == [{"evaluation": "test", "training": "unlabelled", "num_images": 2}]
    assert found["sets"]["unlabelled"]["look_alikes"] == 1
    assert found["sets"]["test"]["look_alikes"] == 0
    assert found["leaks"] == 1  # equal bytes
    texts = [text for level, text in levels(found) if level == "warning"]
    assert texts == ["unlabelled: 2 images much like one of test: the pictures show whether they are copies"]


def test_without_a_radius_bytes_alone_count(sets: Sets) -> None:
    found = sets.of(config=InspectConfig(near_radius=None), **near_copies())
    assert found["near"] == [] and found["leaks"] == 1
    assert not any("look" in text for _, text in levels(found))


def test_where_a_set_looks_alike_the_hash_tells_no_copies(sets: Sets) -> None:
    given = near_copies()
    test = ([photo(4), photo(4, 60), photo(5), photo(6)], [0, 1, 2, 0])
    found = sets.of(unlabelled=given["unlabelled"], test=test)
    assert found["near"] == [{"evaluation": "test", "training": "unlabelled", "num_images": None}]
    assert any("the hash cannot tell copies" in text for _, text in levels(found))


def test_sets_too_large_to_compare_say_so(sets: Sets) -> None:
    found = sets.of(config=InspectConfig(max_near_images=5), **near_copies())
    assert found["sets"]["unlabelled"]["look_alikes"] is None
    assert found["near"][0]["num_images"] == 2  # these are looked for part by part
    assert ("note", "unlabelled: more than 5 images: look-alikes are not looked for") in levels(found)


# pictures and page


def test_the_page_has_everything_within(sets: Sets) -> None:
    told = Told([])
    images = {name: sets.images(name, *given) for name, given in near_copies().items()}
    artifact = sets.inspect(told, **images)
    page = artifact.folder.read("inspection.html").decode()
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "default-src 'none'" in page
    assert page.count("Equal bytes, in unlabelled and test") == 1
    assert page.count("Much alike, in test and unlabelled") == 1
    assert "test: test-1.jpg (1) | unlabelled: unlabelled-5.jpg | " in page
    figures = [fields["name"] for event, fields in told.events if event == "figure"]
    assert figures == ["samples", "pairs"]


def test_pictures_are_of_each_class_and_always_the_same(sets: Sets, picture: Picture) -> None:
    labels = [n % 3 for n in range(30)]
    images = sets.images("labelled", [picture(n, label) for n, label in enumerate(labels)], labels)
    config = InspectConfig(pictures_per_class=1, classes_shown=2)
    page = sets.inspect(config=config, labelled=images).folder.read("inspection.html").decode()
    assert [f"labelled, {n}: 10 images" in page for n in range(3)] == [True, False, True]
    assert page.count('loading="lazy"') == 2
    again = sets.inspect(config=config.model_copy(update={"max_near_images": 99}), labelled=images)
    assert again.folder.read("inspection.html").decode() == page


# stages


def test_parts_are_looked_at_once_and_read_one_by_one(
    sets: Sets, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sets.images("images", [picture(n) for n in range(17)])
    seen: list[int] = []
    look = counted.Summary.add
    monkeypatch.setattr(counted.Summary, "add", lambda self, table: seen.append(len(table)) or look(self, table))
    first = sets.inspect(images=images)
    assert seen == [4, 4, 4, 4, 1]  # no table is larger than a part
    again = sets.inspect(images=images)
    assert len(seen) == 5 and again.manifest == first.manifest
    sets.inspect(config=InspectConfig(seed=1), images=images)
    assert len(seen) == 10


def test_many_sizes_are_counted_without_being_told_apart(
    sets: Sets, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counted, "MOST_SIZES", 3)
    data = [picture(n, size_px=10 + n) for n in range(5)]
    artifact = sets.inspect(images=sets.images("images", data))
    found = json.loads(artifact.folder.read("inspection.json"))["sets"]["images"]
    assert found["sizes"] is None
    assert found["heights"] == {"least": 10, "median": 12, "greatest": 14}
    assert "over 3 sizes" in artifact.folder.read("inspection.md").decode()


def test_an_inspection_of_other_images_is_refused(sets: Sets, picture: Picture) -> None:
    one, other = (sets.images(name, [picture(n)]) for n, name in enumerate(("one", "other")))
    inputs = sets.inputs(images=one) | {"images": other}
    with pytest.raises(DataError, match="an inspection of other images than"):
        stages.inspect(InspectConfig(), inputs, sets.root)


def test_images_that_are_referred_to_are_read_from_their_source(sets: Sets, picture: Picture, tmp_path: Any) -> None:
    local = Sets(str(tmp_path / "root"), sets._write)
    whole = local.of(images=([picture(n) for n in range(6)], None))
    artifact = local.inspect(images=local.images("images", [picture(n) for n in range(6)], index_only=True))
    found = json.loads(artifact.folder.read("inspection.json"))
    assert found["sets"]["images"] | {"url": ""} == whole["sets"]["images"] | {"url": ""}


def test_no_picture_is_needed(sets: Sets) -> None:
    artifact = sets.inspect(images=sets.images("images", [b"words"]))
    assert json.loads(artifact.folder.read("inspection.json"))["sets"]["images"]["drops"] == {"not_an_image": 1}
    assert "images-0.jpg" in artifact.folder.read("inspection.html").decode()


def test_flat_images_have_no_hash(sets: Sets) -> None:
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(sink, "PNG")
    found = sets.of(images=([sink.getvalue(), sink.getvalue()], None))
    assert (found["sets"]["images"]["repeated"], found["sets"]["images"]["look_alikes"]) == (1, 0)
