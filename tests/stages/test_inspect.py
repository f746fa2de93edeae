"""What an inspection says of sets whose images can be counted by hand."""

import json
import re
from typing import Any

import pytest

from noisystudent_core import stages
from noisystudent_core.config import InspectConfig
from noisystudent_core.errors import DataError
from noisystudent_core.evaluation import inspection as counted
from tests.data.test_inspection import file
from tests.stages.inspected import Picture, Sets, levels, near_copies
from tests.stages.small import Told


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
