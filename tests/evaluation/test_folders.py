"""Folders of images and of sequences laid out as the benchmarks were released, on three file systems."""

import io
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from noisystudent_core.data.images import centre_crop_resize, decode_image
from noisystudent_core.errors import ConfigurationError, LabelError, SourceError
from noisystudent_core.evaluation import videos
from noisystudent_core.evaluation.folders import image_folder, sequence_folder
from noisystudent_core.storage.trees import tree_digest

CLASSES = ("n02123394", "n01440764", "n07753592")  # not in the order of names: the net's order counts


def put(url: str, name: str, data: bytes) -> None:
    fs, path = fsspec.core.url_to_fs(f"{url}/{name}")
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    fs.pipe_file(path, data)


def write(url: str, picture: Any, classes: Sequence[str] = CLASSES, num_images: int = 3) -> str:
    for number, name in enumerate(classes):
        for image in range(num_images):
            data = picture(10 * number + image, number, "JPEG", 40)
            put(url, f"{name}/ILSVRC2012_val_{10 * number + image:08d}.JPEG", data)
    return url


def encoded(frames: Sequence[Tensor], path: Path | None = None) -> bytes:
    """Frames uint8 [3, H, W] as H.264 in MP4, 4:2:0, as published; with the index first if at a path."""
    import av

    file = io.BytesIO()
    target: Any = file if path is None else str(path)
    with av.open(target, "w", format="mp4", options={"movflags": "faststart"} if path else {}) as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": "10", "tune": "grain"})
        stream.height, stream.width = frames[0].shape[1:]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame.permute(1, 2, 0).numpy(), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return file.getvalue() if path is None else path.read_bytes()


def smooth_frames(number: int, size: int = 64) -> list[Tensor]:
    """A bright disc that moves to the right on a ramp: 4:2:0 blurs hard edges of colour."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    frames = []
    for step in range(12):
        disc = 120 * torch.exp(-((rows - 30) ** 2 + (columns - 10 - 3 * step) ** 2) / 200)
        frames.append((disc + 60 + 20 * number).to(torch.uint8).expand(3, -1, -1).contiguous())
    return frames


def test_images_and_labels_are_those_of_the_files(any_root: str, picture: Any) -> None:
    folder = image_folder(write(f"{any_root}/val", picture), CLASSES)
    batches = list(folder.batches(32, 0.8, batch_size=4))
    assert [len(images) for images, _ in batches] == [4, 4, 1]
    assert torch.cat([labels for _, labels in batches]).tolist() == [1, 1, 1, 0, 0, 0, 2, 2, 2]
    first = centre_crop_resize(decode_image(picture(10, 1, "JPEG", 40)), 32, 0.8)
    assert torch.equal(batches[0][0][0], first)
    assert folder.names[0] == "n01440764/ILSVRC2012_val_00000010.JPEG"


def test_digest_is_that_of_the_listing(tmp_path: Path, picture: Any) -> None:
    url = write(str(tmp_path), picture)
    folder, whole = image_folder(url, CLASSES), tree_digest(url)
    assert image_folder(url, CLASSES).digest == folder.digest
    assert tree_digest(url) == whole
    put(url, "n01440764/more.jpg", picture(1))
    assert image_folder(url, CLASSES).digest != folder.digest
    assert tree_digest(url) != whole


def test_a_benchmark_may_have_some_of_the_net_s_classes(tmp_path: Path, picture: Any) -> None:
    url = write(str(tmp_path), picture, ["n01440764"])
    assert image_folder(url, CLASSES, ["n01440764"]).labels.tolist() == [1, 1, 1]
    with pytest.raises(LabelError, match=r"no image of 2 of 3 classes \(n02123394, n07753592\); unpack the whole"):
        image_folder(url, CLASSES)


def test_files_that_file_managers_leave_are_passed_over(tmp_path: Path, picture: Any) -> None:
    url = write(str(tmp_path), picture)
    for name in (".DS_Store", "n01440764/._ILSVRC2012_val_00000010.JPEG", ".cache/n01440764/x.jpg"):
        put(url, name, b"litter")
    assert len(image_folder(url, CLASSES)) == 9


@pytest.mark.parametrize(
    "odd", ["readme.txt", "n01440764/notes.txt", "n01440764/deeper/x.jpg", "x.jpg", "n01440764/x.jpg.part"]
)
def test_odd_file_is_named(tmp_path: Path, picture: Any, odd: str) -> None:
    url = write(str(tmp_path), picture)
    put(url, odd, b"odd")
    with pytest.raises(SourceError, match=rf"{odd}: must be <class>/<image>, images being \.jpeg.*other files away"):
        image_folder(url, CLASSES)


def test_other_classes_are_named(tmp_path: Path, picture: Any) -> None:
    url = write(str(tmp_path), picture, ["n01440764", "cat", "dog"])
    with pytest.raises(LabelError, match=r"2 of 3 classes are other ones \(cat, dog\); must be the 3 classes n02"):
        image_folder(url, CLASSES)


def test_net_without_the_benchmark_s_classes_is_named(tmp_path: Path, picture: Any) -> None:
    url = write(str(tmp_path), picture)
    with pytest.raises(LabelError, match=r"the net's 2 classes lack 2 of the benchmark's 3 \(n02123394, n07753592\)"):
        image_folder(url, ["n01440764", "frog"], CLASSES)


def test_missing_class_is_named(tmp_path: Path, picture: Any) -> None:
    url = write(str(tmp_path), picture, CLASSES[:2])
    (tmp_path / "n07753592").mkdir()  # a folder without images is as good as none
    with pytest.raises(LabelError, match=r"no image of 1 of 3 classes \(n07753592\)"):
        image_folder(url, CLASSES)


def test_empty_and_missing_folders_are_named(any_root: str) -> None:
    with pytest.raises(SourceError, match=r"nowhere: no such folder; give one with a folder for each class"):
        image_folder(f"{any_root}/nowhere", CLASSES)


def test_folder_without_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "n01440764").mkdir()
    for call in (lambda: image_folder(str(tmp_path), CLASSES), lambda: tree_digest(str(tmp_path))):
        with pytest.raises(SourceError, match="no file there; give a folder with images below a folder for each class"):
            call()


def test_file_without_bytes_is_named(tmp_path: Path, picture: Any) -> None:
    url = write(str(tmp_path), picture)
    put(url, "n01440764/none.JPEG", b"")
    with pytest.raises(SourceError, match=r"1 files have no bytes \(n01440764/none.JPEG\); copy them again"):
        image_folder(url, CLASSES)


def test_image_that_cannot_be_decoded_is_named(tmp_path: Path, picture: Any) -> None:
    url = write(str(tmp_path), picture)
    put(url, "n01440764/bad.JPEG", picture(1, 0, "JPEG", 40)[:300])
    with pytest.raises(SourceError, match=r"n01440764/bad\.JPEG: truncated \(.*\); a benchmark counts all of its"):
        list(image_folder(url, CLASSES).batches(32, 1.0, 4))


def test_a_reader_that_stops_early_leaves_no_work_behind(tmp_path: Path, picture: Any) -> None:
    batches = image_folder(write(str(tmp_path), picture), CLASSES).batches(32, 1.0, 2)
    assert isinstance(batches, Generator)
    next(batches)
    batches.close()  # waits for its threads
    with pytest.raises(StopIteration):
        next(batches)


def test_sequences_of_frames_are_in_the_order_of_their_numbers(any_root: str, picture: Any) -> None:
    for name in CLASSES:
        for frame in range(11):
            file = io.BytesIO()
            Image.fromarray(np.full((8, 8, 3), 20 * frame, np.uint8)).save(file, "PNG")
            put(any_root, f"{name}/ILSVRC2012_val_{len(name):08d}/img{frame}.png", file.getvalue())
    folder = sequence_folder(any_root, CLASSES)
    found = list(folder.sequences(16))
    assert [label for _, label in found] == [1, 0, 2]
    for frames, _ in found:
        assert frames.shape == (11, 3, 16, 16)
        assert frames[:, 0, 0, 0].tolist() == [20 * frame for frame in range(11)]  # img10 is the last


def test_videos_are_decoded_frame_by_frame(any_root: str) -> None:
    for number, name in enumerate(CLASSES):
        put(any_root, f"{name}/ILSVRC2012_val_0000000{number}.mp4", encoded(smooth_frames(number)))
    found = list(sequence_folder(any_root, CLASSES).sequences(64))
    assert [label for _, label in found] == [1, 0, 2]
    for (frames, _), number in zip(found, [1, 0, 2], strict=True):
        wanted = torch.stack(smooth_frames(number))
        assert frames.shape == wanted.shape == (12, 3, 64, 64)
        assert (frames.float() - wanted.float()).abs().mean() < 2  # grey levels


@pytest.mark.parametrize("kept", [200, 0.7])
def test_damaged_video_is_named(tmp_path: Path, kept: float) -> None:
    data = encoded(smooth_frames(0))
    put(str(tmp_path), "n01440764/cut.mp4", data[: int(kept if kept > 1 else kept * len(data))])
    with pytest.raises(SourceError, match=r"n01440764/cut\.mp4: \d+ bytes that are no video .*copy it again"):
        list(sequence_folder(str(tmp_path), CLASSES, ["n01440764"]).sequences(32))


def test_video_without_all_its_frames_is_named(tmp_path: Path) -> None:
    import av

    path = tmp_path / "whole.mp4"
    whole = encoded(smooth_frames(0), path)  # its index stands before the pictures
    with av.open(str(path), "r") as container:
        last = [packet.size for packet in container.demux(video=0) if packet.size][-2:]
    put(str(tmp_path / "videos"), "n01440764/cut.mp4", whole[: -sum(last)])
    with pytest.raises(SourceError, match=r"cut\.mp4: 10 frames of 12: the rest is missing; copy it again"):
        list(sequence_folder(str(tmp_path / "videos"), CLASSES, ["n01440764"]).sequences(32))


def test_a_sequence_has_two_frames_at_least(tmp_path: Path) -> None:
    put(str(tmp_path), "n01440764/short.mp4", encoded(smooth_frames(0)[:1]))
    with pytest.raises(SourceError, match=r"short\.mp4: 1 frames: must be at least 2"):
        list(sequence_folder(str(tmp_path), CLASSES, ["n01440764"]).sequences(32))


def test_odd_file_among_sequences_is_named(tmp_path: Path, picture: Any) -> None:
    put(str(tmp_path), "n01440764/x.jpg", picture(0))  # a frame without its sequence
    with pytest.raises(SourceError, match=r"x\.jpg: must be <class>/<video>\.mp4 or <class>/<video>/<frame>"):
        sequence_folder(str(tmp_path), CLASSES)


def test_videos_need_a_library_frames_do_not(tmp_path: Path, picture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos.importlib.util, "find_spec", lambda name: None)
    for frame in range(2):
        put(str(tmp_path / "frames"), f"n01440764/a/{frame}.png", picture(frame))
    assert len(sequence_folder(str(tmp_path / "frames"), CLASSES, ["n01440764"])) == 1
    put(str(tmp_path / "videos"), "n01440764/a.mp4", encoded(smooth_frames(0)))
    with pytest.raises(ConfigurationError, match=r"read by PyAV.*pip install 'noisy-student\[video\]', or give"):
        sequence_folder(str(tmp_path / "videos"), CLASSES, ["n01440764"])
