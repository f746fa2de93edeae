"""A lease: one holder at a time, held while its process lives, and gone with it."""

import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from noisystudent_core.storage import lease
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.lease import leased


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "POLL_S", 0.02)


def claims(folder: Folder) -> list[str]:
    return list((folder / "lease").sizes())


def test_one_holder_at_a_time(any_root: str) -> None:
    folder, holding, most = Folder.at(any_root), [], []

    def hold(number: int) -> None:
        with leased(folder):
            holding.append(number)
            most.append(len(holding))
            time.sleep(0.05)
            holding.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hold, range(4)))
    assert most == [1, 1, 1, 1]
    assert claims(folder) == []


def test_renewed_while_it_is_held(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SECONDS", 0.2)
    folder = Folder.at(root)
    with leased(folder):
        (before,) = claims(folder)
        time.sleep(0.5)
        (after,) = claims(folder)
    assert int(after.split(".")[-1]) >= int(before.split(".")[-1]) + 200
    assert after.split(".")[:-1] == before.split(".")[:-1]


def test_claim_of_a_process_that_is_gone_counts_no_more(root: str) -> None:
    process = multiprocessing.get_context("fork").Process(target=_claim_and_die, args=(root,))
    process.start()
    process.join()
    folder = Folder.at(root)
    assert len(claims(folder)) == 1
    with leased(folder):
        assert len(claims(folder)) == 1
    assert claims(folder) == []


def test_claim_of_another_machine_counts_until_it_expires(root: str) -> None:
    folder = Folder.at(root)
    now = int(time.time() * 1000)
    (folder / "lease").publish(f"{now - 9000}.elsewhere.1.abc.{now + 600}", b"")
    with leased(folder):
        assert time.time() * 1000 >= now + 600


def _claim_and_die(root: str) -> None:
    with leased(Folder.at(root)):
        os._exit(0)
