"""What an inspection says of images that come more than once, and of those that look alike."""

import io

import pytest
from PIL import Image

from noisystudent_core.config import InspectConfig
from noisystudent_core.errors import DataError
from noisystudent_core.stages import inspect_repeats
from noisystudent_core.storage.prepared import refuse_leaks
from tests.stages.inspected import Picture, Sets, levels, near_copies, photo


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


def test_flat_images_have_no_hash(sets: Sets) -> None:
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(sink, "PNG")
    found = sets.of(images=([sink.getvalue(), sink.getvalue()], None))
    assert (found["sets"]["images"]["repeated"], found["sets"]["images"]["look_alikes"]) == (1, 0)
