"""Prices and the schedule, worked out by hand."""

import pytest

from noisystudent_core.planning import probes
from noisystudent_core.planning.costs import Priced, duration, price, schedule
from noisystudent_core.planning.fits import Work
from noisystudent_core.planning.layout import Stage
from noisystudent_core.planning.rates import Rate
from tests.planning.by_hand import known, ten_a_second

INGEST = probes.of_images("ingest", 1024)
DECODE = probes.of_images("decode", 1024, 32)


def priced(name: str, seconds: float, num_devices: int = 1, after: tuple[str, ...] = ()) -> Priced:
    return Priced(Stage(name=name, after=after), seconds, num_devices, (), "measured")


def test_a_stage_takes_its_amounts_by_its_rates() -> None:
    stage = Stage(name="fit", work=(Work(INGEST, 500, "50 steps x 10 images"), Work(DECODE, 100, "100 images")))
    found = price(stage, ten_a_second, num_devices=8, is_cpu=True)
    assert (found.seconds, found.num_devices, found.device_s) == (60.0, 1, 60.0)
    assert found.arithmetic == (
        "50 steps x 10 images / 10 a second (measured: by hand) = 50 s",
        "100 images / 10 a second (measured: by hand) = 10 s",
    )


def test_devices_share_what_can_be_shared() -> None:
    shared = (Work(INGEST, 800, "800 images", is_shared=True), Work(DECODE, 50, "50 images"))
    found = price(Stage(name="fit", work=shared, processes=4), ten_a_second, num_devices=8, is_cpu=False)
    assert (found.seconds, found.num_devices, found.device_s) == (20.0 + 5.0, 4, 100.0)
    found = price(Stage(name="label", work=shared[:1], groups=500), ten_a_second, num_devices=8, is_cpu=False)
    assert (found.seconds, found.num_devices) == (10.0, 8)
    found = price(Stage(name="label", work=shared[:1], groups=3), ten_a_second, num_devices=8, is_cpu=False)
    assert found.num_devices == 3


@pytest.mark.parametrize(("is_cpu", "seconds"), [(False, 80.0), (True, 130.0)])
def test_streamed_images_are_decoded_beside_a_gpu_and_in_turns_with_a_cpu(is_cpu: bool, seconds: float) -> None:
    work = (Work(INGEST, 500, "steps", True), Work(DECODE, 800, "streamed", True))
    assert price(Stage(name="fit", work=work, overlaps=True), ten_a_second, 1, is_cpu).seconds == seconds


def test_a_stage_is_known_by_the_weakest_of_its_rates() -> None:
    rates = known((INGEST, Rate(1.0, "measured", "")), (DECODE, Rate(1.0, "assumed", "")))
    stage = Stage(name="both", work=(Work(INGEST, 1, ""), Work(DECODE, 1, "")))
    assert price(stage, rates.__getitem__, 1, True).how == "assumed"


def test_stages_run_side_by_side_where_devices_are_free() -> None:
    run = [priced("a", 10), priced("b", 20), priced("c", 5, after=("a",)), priced("d", 1, 2, after=("b", "c"))]
    alone = {one.stage.name: (one.start_s, one.end_s) for one in schedule(run[:3], 1)}
    assert alone == {"a": (0, 10), "b": (10, 30), "c": (30, 35)}
    on_two = {one.stage.name: (one.start_s, one.end_s) for one in schedule(run, 2)}
    assert on_two == {"a": (0, 10), "b": (0, 20), "c": (10, 15), "d": (20, 21)}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (61, "61 s"), (600, "10.0 min"), (7200, "2.0 h"), (6 * 86400, "6.0 days"), (1e9, "31.7 years")],
)
def test_durations_are_said_in_the_nearest_unit(seconds: float, said: str) -> None:
    assert duration(seconds) == said
