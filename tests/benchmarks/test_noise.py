"""The benchmark's pieces: what is compared is the whole work of both sides, and a missed promise is said."""

import re
from collections.abc import Iterator

import pytest
import timm
import torch

from benchmarks import noise
from benchmarks.measuring import smooth_fields, spread
from benchmarks.noise import MAGNITUDE_OF, TRANSFORMS, Plan, Row, Share

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The benchmark sets the number of threads and cuDNN's choice; the tests after it keep theirs."""
    num_threads, cudnn = torch.get_num_threads(), torch.backends.cudnn.benchmark
    yield
    torch.set_num_threads(num_threads)
    torch.backends.cudnn.benchmark = cudnn


def test_a_row_for_each_dialect_size_and_place(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(noise, "all_cores", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(noise, "QUICK", Plan(num_images={16: 8, 32: 8}, num_rounds=2))
    monkeypatch.setattr(noise, "LEAST_RATIO", {16: 1e9})  # out of reach
    with pytest.raises(SystemExit) as ended:
        noise.main(quick=True)
    printed = capsys.readouterr().out
    lines = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("|")]
    expected = [
        [f"{size} px", place, dialect]
        for size in (16, 32)
        for place in ("1 core", "2 cores")
        for dialect in MAGNITUDE_OF
    ]
    assert [line[:3] for line in lines[2:]] == expected
    assert {len(line) for line in lines} == {7}
    for line in lines[2:]:
        number = r"[1-9][\d,]*"
        assert re.fullmatch(number, line[3])
        if line[2] == "google":
            assert line[4:] == ["-", "-", "-"]
        else:
            assert re.fullmatch(number, line[4]) and re.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\)", line[5])
    assert [line[:3] for line in lines[2:] if line[6] != "-"] == [["16 px", "1 core", "timm"]]
    assert "no GPU: nothing measured there" in printed and "\n1 promise missed" in printed
    assert ended.value.code == 1


@pytest.mark.parametrize("dialect", TRANSFORMS)
@pytest.mark.parametrize("num_cores", [1, 2])
def test_theirs_noises_every_image_anew_each_time(dialect: str, num_cores: int) -> None:
    images = smooth_fields(num_images=11, size_px=24)  # not a multiple of the parts
    with noise.theirs_on_cores(dialect, images, num_cores) as theirs:
        assert theirs is not None
        first, second = theirs(0).clone(), theirs(1).clone()
        theirs(1).fill_(7)
        again = theirs(0)
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert not (again == 7).flatten(1).all(dim=1).any()  # no image was left out


def test_timms_way_through_pil_keeps_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "rand_augment_transform", lambda configuration: lambda picture: picture)
    image = smooth_fields(num_images=1, size_px=20)[0, :, :, :14]
    assert torch.equal(noise.timm_transform()(image), image)


def test_a_share_for_each_dialect() -> None:
    shares = list(noise.shares(CPU, 2, model="test_efficientnet", size_px=32, num_images=8, compiled=(False,)))
    assert [share.dialect for share in shares] == list(MAGNITUDE_OF)
    assert all(share.noise_ms > 0 and share.step_ms > 0 and len(share.shares) == 2 for share in shares)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_shares_on_a_gpu() -> None:
    device = torch.device("cuda")
    for share in noise.shares(device, 2, model="test_efficientnet", size_px=64, num_images=16):
        assert share.noise_ms > 0 and share.step_ms > 0


def test_a_step_changes_the_weights() -> None:
    net = timm.create_model("test_efficientnet", num_classes=1000)
    before = [parameter.clone() for parameter in net.parameters()]
    noise.training_step(net, smooth_fields(num_images=4, size_px=32), compiled=False)(0)
    assert not any(torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))


def test_promises_are_kept_up_to_their_limit() -> None:
    def row(size_px: int, place: str, dialect: str, ratio: float) -> Row:
        return Row(size_px=size_px, place=place, dialect=dialect, ours=1, theirs=1, ratios=[0, ratio, 99])

    def share(median: float) -> Share:
        return Share(dialect="google", compiled=True, noise_ms=1, step_ms=1, added_ms=1, shares=[0, median, 1])

    assert row(32, "1 core", "timm", 2.99).missed and not row(32, "1 core", "timm", 3.0).missed
    assert row(224, "1 core", "timm", 0.99).missed and not row(224, "1 core", "timm", 1.0).missed
    assert not row(32, "2 cores", "timm", 0.5).missed and not row(32, "1 core", "torchvision", 0.5).missed
    assert share(0.101).missed and not share(0.1).missed


def test_the_pictures_have_structure() -> None:
    images = smooth_fields(num_images=4, size_px=64).float()
    neighbours = (images[..., 1:] - images[..., :-1]).abs().mean()
    assert images.shape == (4, 3, 64, 64) and images.std() > 40
    assert neighbours < images.std() / 2  # of white noise: more than its standard deviation


def test_spread_is_the_median_and_the_range() -> None:
    assert spread([3.0, 1.0, 2.5], ".1f") == "2.5 (1.0 to 3.0)"
