"""What can be wrong with a source: each row is kept with its reason, or an error says what to do."""

import io
import os
import struct
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noisystudent_core.data.sources import tars
from noisystudent_core.errors import BadImagesError, ConfigurationError, LabelError, SchemaError, SourceError
from tests.data import written
from tests.data.prepared import Prepared

Picture = Callable[..., bytes]


def reasons(prepared: Prepared) -> dict[str, str | None]:
    """Why each image was not taken, by its name in the source."""
    return {row["source"]: row["reason"] for row in prepared.rows()}


def put(folder: Path, images: dict[str, bytes]) -> str:
    for name, data in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return str(folder)


def test_tar_members_that_lead_elsewhere_are_no_images(tmp_path: Path, prepared: Prepared, picture: Picture) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(9))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("1.png", "../2.png", "/3.png", "a/../../4.png"):
            written.add_to_tar(archive, name, picture(1))
        for name, kind in (("5.png", tarfile.SYMTYPE), ("6.png", tarfile.LNKTYPE), ("7.png", tarfile.FIFOTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, str(secret)
            archive.addfile(link)
    drops = take(prepared, str(tmp_path / "a.tar"))
    assert drops == {"unsafe_path": 3, "link": 3}
    assert reasons(prepared)["a.tar:1.png"] is None and reasons(prepared)["a.tar:../2.png"] == "unsafe_path"
    assert all(row["image"] == b"" for row in prepared.rows()[1:])
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar", "secret.png", "prepared"}


def take(prepared: Prepared, source: str, **settings: Any) -> dict[str, int]:
    """Take in without labels, however bad, and return how many rows there are of each reason."""
    return prepared(source, read_labels=False, max_bad_fraction=1.0, **settings).drops


def test_tar_with_members_that_are_no_image(tmp_path: Path, prepared: Prepared, picture: Picture) -> None:
    members = {"1.png": picture(1), "1.txt": b"a caption", "2.jpg": b"words", "3.cls": b"1", "4.txt": b"alone"}
    source = str(written.tar(tmp_path / "a.tar", members))
    assert take(prepared, source) == {"no_image": 2, "not_an_image": 1}
    assert [row["source"] for row in prepared.rows()] == [
        f"a.tar:{name}" for name in ("1.png", "2.jpg", "3.cls", "4.txt")
    ]


def test_tar_image_without_label_is_named(tmp_path: Path, prepared: Prepared, picture: Picture) -> None:
    source = str(written.tar(tmp_path / "a.tar", {"1.png": picture(1), "1.cls": b"0", "2.png": picture(2)}))
    with pytest.raises(LabelError, match=r"a\.tar: row 1 \(2\.png\) has no label; must be 0 to 2"):
        prepared(source, num_classes=3)


def test_tar_members_beside_labelled_images_need_no_label(tmp_path: Path, prepared: Prepared, picture: Picture) -> None:
    members = {"README.txt": b"words", "1.png": picture(1), "1.cls": b"0", "2.cls": b"1", "3.png": picture(3)}
    source = str(written.tar(tmp_path / "a.tar", members | {"3.cls": b"1"}))
    assert prepared(source, num_classes=2, max_bad_fraction=0.5).drops == {"no_image": 2}
    assert [row["label"] for row in prepared.rows()] == [None, 0, 1, 1]
    with pytest.raises(BadImagesError, match=r"2 of 4 images cannot be used \(no_image 2: a\.tar:README\.txt, "):
        prepared(source, num_classes=2)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_tar_member_that_expands_to_more_than_memory_is_never_read(
    name: str, tmp_path: Path, prepared: Prepared, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tars, "MAX_BYTES", 10**6)
    bomb = {"1.png": picture(1), "2.png": picture(2) + bytes(10**6), "3.png": picture(3)}
    source = str(written.tar(tmp_path / name, bomb, "w:gz" if "gz" in name else "w"))
    assert take(prepared, source) == {"too_many_bytes": 1}
    assert [len(row["image"]) > 0 for row in prepared.rows()] == [True, False, True]


@pytest.mark.parametrize(("label", "words"), [(b"{", "1.json is no JSON"), (b'{"label": [1]}', r"has label \[1\]")])
def test_label_that_cannot_be_read(
    label: bytes, words: str, tmp_path: Path, prepared: Prepared, picture: Picture
) -> None:
    source = str(written.tar(tmp_path / "a.tar", {"1.png": picture(1), "1.json": label}))
    with pytest.raises(LabelError, match=words):
        prepared(source, num_classes=3)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_damaged_tar_is_named(name: str, tmp_path: Path, prepared: Prepared, picture: Picture) -> None:
    path = written.tar(tmp_path / name, {"1.png": picture(1), "2.png": picture(2)}, "w:gz" if "gz" in name else "w")
    whole = path.read_bytes()
    for data in (b"words" * 200, whole[:600]):
        path.write_bytes(data)
        with pytest.raises(SourceError, match=f"{name}: not a tar file, or damaged"):
            take(prepared, str(path))


def test_addresses_that_lead_to_no_image(tmp_path: Path, prepared: Prepared, picture: Picture, web: str) -> None:
    put(tmp_path, {"web/1.png": picture(1), "here/1.png": picture(2), "here/words.png": b"words"})
    uris = [f"{web}/1.png", f"{web}/gone.png", "here/1.png", "here", "gone/1.png", "here/words.png", "", "qq://a/b.png"]
    (tmp_path / "a.csv").write_text("uri\n" + "\n".join(f'"{uri}"' for uri in uris) + "\n")
    take(prepared, str(tmp_path / "a.csv"))
    expected = [None, "not_found", None, "is_a_directory", "not_found", "not_an_image", "not_found", "unreachable"]
    assert [row["reason"] for row in prepared.rows()] == expected
    assert [row["source"] for row in prepared.rows()] == uris
    with pytest.raises(
        BadImagesError,
        match=f"6 of 8 images cannot be used .*not_found 3: {web}/gone.png, ..., is_a_directory 1: here,",
    ):
        prepared(str(tmp_path / "a.csv"), read_labels=False)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (
            b"file,label\n1,2\n",
            SchemaError,
            "no column 'image', 'uri', 'path', 'file_name', which one must be; it has file",
        ),
        (b"uri,class\n1.png,2\n", SchemaError, "no column 'label'; it has uri, class"),
        (b"uri,label\n\xff\xfe.png,1\n", SourceError, "not a CSV file in UTF-8"),
        (b"uri,label\n1.png\n", LabelError, r"row 0 \(1\.png\) has no label"),
        (b"uri,label\n1.png,7\n", LabelError, r"row 0 \(1\.png\) has label 7; must be 0 to 2"),
        (b"uri,label\ns3://me:hush@bucket/1.png,1\n", ConfigurationError, "a URL holds credentials"),
    ],
)
def test_wrong_tables_are_named(
    text: bytes, error: type[Exception], words: str, tmp_path: Path, prepared: Prepared
) -> None:
    (tmp_path / "a.csv").write_bytes(text)
    with pytest.raises(error, match=words) as caught:
        prepared(str(tmp_path / "a.csv"), num_classes=3)
    assert "hush" not in str(caught.value)


def test_folder_named_as_a_table_is_listed_as_a_folder(tmp_path: Path, prepared: Prepared) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(SourceError, match=r"a\.csv: no \*\.parquet file there"):
        prepared(str(tmp_path / "a.csv"))


def test_empty_class_folder_is_named(tmp_path: Path, prepared: Prepared, picture: Picture) -> None:
    source = put(tmp_path / "s", {"ant/1.png": picture(1), "bee/1.png": picture(2)})
    (tmp_path / "s" / "cat").mkdir()
    put(tmp_path / "s", {"dog/readme.txt": b"nothing yet"})
    with pytest.raises(LabelError, match="no image in the folder of class 'cat', 'dog': each of the 4 classes needs"):
        prepared(source)
    assert take(prepared, source) == {}


def test_images_outside_the_class_folders_are_named(tmp_path: Path, prepared: Prepared, picture: Picture) -> None:
    source = put(tmp_path / "s", {"ant/1.png": picture(1), "2.png": picture(2)})
    with pytest.raises(LabelError, match="images that lie in no class's folder"):
        prepared(source)


def test_names_that_are_no_utf8_are_written_out(tmp_path: Path, prepared: Prepared, picture: Picture) -> None:
    put(tmp_path / "s", {os.fsdecode(name): picture(len(name)) for name in (b"ant\xff/\xfe.png", b"bee/\xfe.png")})
    assert prepared(str(tmp_path / "s")).facts["class_names"] == ["ant\\xff", "bee"]
    assert [row["source"] for row in prepared.rows()] == ["ant\\xff/\\xfe.png", "bee/\\xfe.png"]


def test_classes_that_differ_in_case_only_are_refused(tmp_path: Path, prepared: Prepared, picture: Picture) -> None:
    source = put(tmp_path / "s", {"Cat/1.png": picture(1), "cat/1.png": picture(2)})
    with pytest.raises(
        LabelError, match="classes 'Cat' and 'cat' differ in case only: rename one, or put them together"
    ):
        prepared(source)


def test_files_with_different_lists_of_classes_are_refused(
    tmp_path: Path, prepared: Prepared, picture: Picture
) -> None:
    table = pa.table({"image": [picture(1), picture(2)], "label": [0, 1]})
    for name, classes in (("a", ["ant", "bee"]), ("b", ["bee", "cat"])):
        pq.write_table(table.replace_schema_metadata(written.hugging_face(classes)), tmp_path / f"{name}.parquet")
    with pytest.raises(
        LabelError, match=r"a\.parquet has the classes 'ant', 'bee', .*b\.parquet 'bee', 'cat': files of"
    ):
        prepared(str(tmp_path))
    prepared(f"{tmp_path}/b.parquet", class_names=("cat", "bee"))
    assert [row["label"] for row in prepared.rows()] == [1, 0]


def test_class_that_is_not_among_the_given_ones_is_named(tmp_path: Path, prepared: Prepared, picture: Picture) -> None:
    source = put(tmp_path / "s", {"ant/1.png": picture(1), "dog/1.png": picture(2)})
    with pytest.raises(
        LabelError, match=r"row 0 \(dog/1\.png\) has label 'dog'; .* or one of the classes 'ant', 'bee'"
    ):
        prepared(source, class_names=("ant", "bee"))
    with pytest.raises(LabelError, match=r"has 2 classes \('ant', 'dog'\), num_classes=3: must be as many"):
        prepared(source, num_classes=3)


def test_file_of_no_known_kind_is_named(tmp_path: Path, prepared: Prepared) -> None:
    source = put(tmp_path, {"a.zip": b"PK"}) + "/a.zip"
    with pytest.raises(SourceError, match=r"a\.zip: its name ends in none of \.parquet, \.tar, .* unpack it, or give"):
        take(prepared, source)


def test_image_of_two_classes_is_named(tmp_path: Path, prepared: Prepared, picture: Picture) -> None:
    source = put(tmp_path / "s", {"ant/1.png": picture(1), "bee/2.png": picture(2), "bee/3.png": picture(1)})
    with pytest.raises(
        LabelError, match=r"s: image 'ant/1\.png', 'bee/3\.png' has labels 0 \('ant'\) and 1 \('bee'\); must have one"
    ):
        prepared(source)


def test_two_artifacts_with_different_classes_are_refused(tmp_path: Path, prepared: Prepared, picture: Picture) -> None:
    outs = []
    for number, names in enumerate((("ant", "bee"), ("bee", "cat"))):
        prepared(put(tmp_path / f"s{number}", {f"{name}/1.png": picture(ord(name[0])) for name in names}))
        outs.append(prepared.out)
    with pytest.raises(LabelError, match=r"has the classes 'ant', 'bee', .* 'bee', 'cat': must be the same"):
        prepared("\n".join(outs))


def test_false_extension_is_no_matter(tmp_path: Path, prepared: Prepared, picture: Picture) -> None:
    source = put(
        tmp_path / "s", {"a/1.png": picture(1, kind="JPEG"), "a/2.jpg": picture(2), "a/3.webp": picture(3, kind="GIF")}
    )
    assert take(prepared, source) == {}


def test_decompression_bomb_is_never_decoded(tmp_path: Path, prepared: Prepared, picture: Picture) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    source = put(tmp_path / "s", {"a/1.png": picture(1), "a/2.png": bomb})
    assert take(prepared, source) == {"too_many_pixels": 1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:30], "ends 9 bytes early"),
        (lambda data: b"\1" + data[1:], "must be an IDX file of unsigned bytes"),
    ],
)
def test_damaged_idx_is_named(change: Callable[[bytes], bytes], words: str, tmp_path: Path, prepared: Prepared) -> None:
    folder = tmp_path / "s"
    written.write_idx(folder, np.zeros((1, 4, 4), np.uint8), [0])
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(change(path.read_bytes()) if "must" in words else path.read_bytes()[:-9])
    with pytest.raises(SourceError, match=words):
        take(prepared, str(folder))


def test_idx_labels_must_fit_the_images(tmp_path: Path, prepared: Prepared) -> None:
    folder = tmp_path / "s"
    written.write_idx(folder, np.zeros((3, 4, 4), np.uint8), [0, 1])
    with pytest.raises(LabelError, match=r"holds \[2\] labels for 3 images"):
        prepared(str(folder), num_classes=2)
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(LabelError, match="no file of its labels beside it"):
        prepared(str(folder), num_classes=2)


def test_reasons_count_in_the_manifest(tmp_path: Path, prepared: Prepared, picture: Picture) -> None:
    file = io.BytesIO(picture(1))
    source = put(tmp_path / "s", {"a/1.png": file.getvalue(), "a/2.png": b"", "a/3.png": file.getvalue()[:200]})
    assert take(prepared, source) == dict(Counter(filter(None, reasons(prepared).values())))
