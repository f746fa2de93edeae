"""Several sources taken in as one: a class is what its folder is called in its own source, whatever lies beside it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from noisystudent_core.errors import LabelError
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.sources import list_source
from tests.data import written
from tests.data.prepared import Prepared
from tests.data.written import Given

NAMES = ("ant", "bee", "cat")
Picture = Callable[..., bytes]


@pytest.fixture
def given(picture: Picture) -> list[Given]:
    return [Given(f"{number:03d}", picture(number), number % 3) for number in range(12)]


@pytest.fixture
def trees(tmp_path: Path, given: list[Given]) -> list[str]:
    """Two trees with folders of the same names, one deeper than the other."""
    return [
        written.write_folders(tmp_path / "one", given[:6], NAMES),
        written.write_folders(tmp_path / "far" / "away", given[6:], NAMES),
    ]


@pytest.mark.parametrize("images_per_part", [1, 100])
def test_trees_of_the_same_classes_are_one(
    images_per_part: int, trees: list[str], prepared: Prepared, given: list[Given]
) -> None:
    digests = set()
    for order in (trees, trees[::-1]):
        manifest = prepared("\n".join(order), images_per_part=images_per_part)
        assert manifest.facts["class_names"] == list(NAMES)
        assert prepared.images() == sorted((image.data, image.label) for image in given)
        digests.add(manifest.content_digest)
    assert len(digests) == 1


def test_a_tree_beside_a_table(trees: list[str], tmp_path: Path, prepared: Prepared, given: list[Given]) -> None:
    table = written.write_png_column(tmp_path / "table", given[6:], NAMES)
    assert prepared(f"{trees[0]}\n{table}").facts["class_names"] == list(NAMES)
    assert prepared.images() == sorted((image.data, image.label) for image in given)


def test_trees_on_two_file_systems(
    trees: list[str], s3_root: str, tmp_path: Path, prepared: Prepared, given: list[Given]
) -> None:
    for path in Path(trees[1]).rglob("*.png"):
        Folder.at(s3_root).publish(str(path.relative_to(trees[1])), path.read_bytes())
    prepared(f"{trees[0]}\n{s3_root}")
    assert prepared.images() == sorted((image.data, image.label) for image in given)


def test_folders_of_one_class_each(trees: list[str], prepared: Prepared, given: list[Given]) -> None:
    prepared(f"{trees[0]}/{{{','.join(NAMES)}}}")
    assert prepared.images() == sorted((image.data, image.label) for image in given[:6])


def test_the_place_in_a_tree_is_part_of_what_a_source_is(trees: list[str]) -> None:
    whole = list_source("\n".join(trees))
    folders = list_source("\n".join(file.path for file in whole))
    assert [file.name for file in whole] == [file.name for file in folders]
    assert not {file.digest for file in whole} & {file.digest for file in folders}


def test_trees_of_different_classes_are_refused(
    trees: list[str], tmp_path: Path, prepared: Prepared, picture: Picture, given: list[Given]
) -> None:
    new = Given("new", picture(99), 0)
    other = written.write_folders(tmp_path / "other", [new], ("dog",))
    words = r"one has folders of the classes 'ant', 'bee', 'cat', .*other of 'dog': must be the same; .* class_names"
    with pytest.raises(LabelError, match=words):
        prepared(f"{trees[0]}\n{other}")
    prepared(f"{trees[0]}\n{other}", class_names=(*NAMES, "dog"))
    assert prepared.images() == sorted([*((image.data, image.label) for image in given[:6]), (new.data, 3)])


def test_images_in_no_folder_beside_a_tree_are_named(
    trees: list[str], tmp_path: Path, prepared: Prepared, picture: Picture
) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "1.png").write_bytes(picture(99))
    with pytest.raises(LabelError, match="flat: images that lie in no class's folder"):
        prepared(f"{trees[0]}\n{tmp_path}/flat")
    assert prepared(f"{trees[0]}\n{tmp_path}/flat", read_labels=False).num_rows == 7
