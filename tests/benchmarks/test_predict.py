"""The benchmark's pieces: pictures like photographs, works that do what they are timed for, and a table."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import predict
from benchmarks.predict import Plan, Row


def test_pictures_compress_as_photographs_do() -> None:
    images = predict.photographs(6)
    sizes = [len(image) for image in images]
    assert all(30_000 < size < 70_000 for size in sizes) and len(set(images)) == 6
    first = Image.open(io.BytesIO(images[0]))
    assert first.size == (500, 375)
    assert np.asarray(first).std() > 40


def test_a_row_for_threads_and_one_for_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(predict, "all_cores", lambda: 1)
    monkeypatch.setattr(predict, "QUICK", Plan(num_images=18, num_parts=2, num_rounds=2))
    monkeypatch.setattr(predict, "NUM_PICTURES", 5)
    monkeypatch.setattr(predict, "CPU_MODEL", "test_resnet")
    monkeypatch.setattr(predict, "LEAST_SHARE", 99.0)  # out of reach
    with pytest.raises(SystemExit) as ended:
        predict.main(quick=True)
    printed = capsys.readouterr().out
    lines = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("|")][2:]
    assert [line[0] for line in lines] == ["test_resnet, 1 core", "the same, 1 decoding processes"]
    for line in lines:
        assert all(re.fullmatch(r"[1-9][\d,]*", number) for number in line[1:4])
        assert re.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\)", line[4])
    assert [line[5] for line in lines] == [">= 99", "-"]
    assert "\n1 promise missed" in printed and ended.value.code == 1


def test_the_bound_is_the_time_of_both_and_the_promise_is_kept_up_to_its_limit() -> None:
    def row(share: float, least: float | None) -> Row:
        return Row(what="", forward=1, decode=1, labelling=1, shares=[0, share, 9], least=least)

    assert row(0.849, 0.85).missed and not row(0.85, 0.85).missed and not row(0.1, None).missed


def test_threads_do_every_step_with_one_of_torchs_threads_each() -> None:
    seen = []

    def step(number: int) -> int:
        seen.append((number, torch.get_num_threads()))
        return 8

    torch.set_num_threads(2)
    try:
        predict.on_threads(step, num_images=60, num_threads=3)(0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert sorted(seen[1:]) == [(number, 1) for number in range(8)]
