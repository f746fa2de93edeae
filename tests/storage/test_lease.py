"""A lease: one holder at a time, held while its process lives, and gone with it."""

import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from noisystudent_core.storage import lease
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.lease import held_since, leased


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "POLL_S", 0.02)


def files(folder: Folder) -> list[str]:
    return sorted((folder / "lease").sizes())


def test_whoever_waits_is_told_for_whom(root: str) -> None:
    folder, said, told = Folder.at(root), [], Event()

    def say(text: str) -> None:
        said.append(text)
        told.set()

    def wait() -> None:
        with leased(folder, say):
            pass

    with leased(folder), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        assert told.wait(10)
        assert not waiting.done()
        (folder / "lease").publish("1.released", b"")
        waiting.result(10)
    assert len(said) == 1
    assert f"process {os.getpid()} on " in said[0]


def test_a_lease_tells_since_when_it_is_held(any_root: str) -> None:
    folder = Folder.at(any_root)
    assert held_since(folder) is None
    with leased(folder):
        since = held_since(folder)
        assert since is not None
        assert abs(since - time.time()) < 5
    assert held_since(folder) is None


def test_one_holder_at_a_time(any_root: str) -> None:
    folder, holding, most = Folder.at(any_root), [], []

    def hold(number: int) -> None:
        with leased(folder):
            holding.append(number)
            most.append(len(holding))
            time.sleep(0.02)
            holding.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, range(24)))
    assert most == [1] * 24
    assert files(folder) == ["24", "24.released"]


def test_renewed_while_it_is_held(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SECONDS", 0.2)
    folder = Folder.at(root)
    with leased(folder):
        assert files(folder) == ["1"]
        time.sleep(0.5)
        holder, renewal = files(folder)
        expires = int((folder / "lease").read(holder).split()[-1])
        assert holder == "1" and int(renewal.partition(".")[2]) >= expires + 200


def test_lease_of_a_process_that_is_gone_counts_no_more(root: str) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_claim_and_die, args=(root,))
    process.start()
    process.join()
    folder = Folder.at(root)
    assert files(folder) == ["1"]
    with leased(folder):
        assert files(folder) == ["2"]
    assert files(folder) == ["2", "2.released"]


def test_lease_of_another_machine_counts_until_it_expires(root: str) -> None:
    folder = Folder.at(root)
    now = int(time.time() * 1000)
    (folder / "lease").publish("7", f"elsewhere 1 abc {now - 9000}".encode())
    (folder / "lease").publish(f"7.{now + 600}", b"")
    with leased(folder):
        assert time.time() * 1000 >= now + 600
        assert files(folder) == ["8"]


def test_the_folder_may_be_deleted_by_its_holder(root: str) -> None:
    folder = Folder.at(root)
    with leased(folder):
        folder.remove_all()
    assert not Path(root).exists()


def _claim_and_die(root: str) -> None:
    with leased(Folder.at(root)):
        os._exit(0)
