"""A stage is done once for the same settings and inputs, and ends the same however often it was interrupted."""

from collections.abc import Callable
from pathlib import Path

import pytest

from noisystudent_core.config import IngestConfig, SelectConfig
from noisystudent_core.errors import ConfigurationError, CorruptArtifactError, SourceError
from noisystudent_core.events import Events
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import (
    Artifact,
    Inputs,
    artifact_url,
    input_digests,
    publish_manifest,
    publish_part,
)
from noisystudent_core.storage.stage import Place, Stage, Written, stage

NUM_PARTS = 3


class Killed(Exception):
    """What ends a stage in the middle."""


class Work:
    """A stage's own work: parts made of the threshold and the input; `dies_after` so many parts the first time."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.calls = self.parts_made = 0
        self.dies_after = dies_after

    def __call__(self, config: SelectConfig, inputs: Inputs, place: Place, events: Events) -> Written:
        self.calls += 1
        image = Artifact.open(inputs["images"])
        data = image.read(image.manifest.parts[0])
        parts = []
        for number in range(NUM_PARTS):
            if self.calls == 1 and number == self.dies_after:
                raise Killed
            made = f"{config.threshold} {number} ".encode() + data
            path = place.beside("shared", "part-1") if number == 1 else f"part-{number}"
            parts.append(publish_part(place.folder, path, made, 1))
        return Written(tuple(parts), {"below_threshold": 2}, {"threshold": config.threshold})


Publish = Callable[..., str]


@pytest.fixture
def images() -> Publish:
    """`images(url, data)`: an artifact of one part."""

    def publish(url: str, data: bytes = b"pixels") -> str:
        publish_manifest(url, IngestConfig(), {}, (publish_part(Folder.at(url), "part", data, 1),))
        return url

    return publish


def made(work: Work) -> Stage[SelectConfig]:
    return stage(work.__call__)


def files(url: str) -> dict[str, bytes]:
    folder = Folder.at(url)
    names = [name.removeprefix(f"{folder.path}/") for name in folder.fs.find(folder.path)]
    return {name: folder.read(name) for name in names}


def test_finished_stage_is_reused_without_work(any_root: str, images: Publish) -> None:
    work, inputs = Work(), {"images": images(f"{any_root}/in")}
    first = made(work)(SelectConfig(), inputs, any_root)
    assert made(work)(SelectConfig(), inputs, any_root) == first
    assert work.calls == 1


def test_manifest_holds_what_the_work_wrote(root: str, images: Publish) -> None:
    inputs = {"images": images(f"{root}/in")}
    manifest = made(Work())(SelectConfig(), inputs, root)
    assert (manifest.num_rows, manifest.drops, manifest.facts) == (3, {"below_threshold": 2}, {"threshold": 0.3})
    assert manifest.inputs == {"images": Artifact.open(inputs["images"]).manifest.content_digest}
    assert Artifact.open(artifact_url(SelectConfig(), input_digests(inputs), root)).manifest == manifest


def test_same_contents_give_the_same_key_wherever_stored(
    root: str, memory_root: str, s3_root: str, images: Publish
) -> None:
    manifests = [
        made(Work())(SelectConfig(), {"images": images(f"{url}/anywhere")}, url) for url in (root, memory_root, s3_root)
    ]
    assert manifests[0] == manifests[1] == manifests[2]


def test_root_may_be_another_file_system_than_the_inputs(root: str, s3_root: str, images: Publish) -> None:
    inputs = {"images": images(f"{s3_root}/in")}
    assert made(Work())(SelectConfig(), inputs, root) == made(Work())(SelectConfig(), inputs, s3_root)


def test_changed_setting_or_input_is_another_artifact(root: str, images: Publish) -> None:
    work, one, two = Work(), {"images": images(f"{root}/1")}, {"images": images(f"{root}/2", b"other")}
    keys = {
        made(work)(SelectConfig(), one, root).key,
        made(work)(SelectConfig(threshold=0.5), one, root).key,
        made(work)(SelectConfig(), two, root).key,
    }
    assert len(keys) == work.calls == 3


@pytest.mark.parametrize("num_parts", range(NUM_PARTS))
def test_killed_stage_ends_with_the_same_bytes(tmp_path: Path, images: Publish, num_parts: int) -> None:
    work, inputs = Work(dies_after=num_parts), {"images": images(str(tmp_path / "in"))}
    broken, whole = str(tmp_path / "broken"), str(tmp_path / "whole")
    with pytest.raises(Killed):
        made(work)(SelectConfig(), inputs, broken)
    assert len(files(broken) if num_parts else []) == num_parts
    made(work)(SelectConfig(), inputs, broken)
    made(Work())(SelectConfig(), inputs, whole)
    assert files(broken) == files(whole) and len(files(whole)) == NUM_PARTS + 1


def test_out_is_the_artifacts_own_folder(any_root: str, images: Publish) -> None:
    inputs, out = {"images": images(f"{any_root}/in")}, f"{any_root}/out"
    manifest = made(Work())(SelectConfig(), inputs, any_root, out=out)
    assert [part.path for part in manifest.parts] == ["part-0", "shared/part-1", "part-2"]
    assert Artifact.open(out).manifest == manifest
    assert manifest.content_digest == made(Work())(SelectConfig(), inputs, any_root).content_digest


def test_out_of_other_settings_is_refused(root: str, images: Publish) -> None:
    work, inputs, out = Work(), {"images": images(f"{root}/in")}, f"{root}/out"
    made(work)(SelectConfig(), inputs, root, out=out)
    with pytest.raises(ConfigurationError, match=f"{out}: holds an artifact of other settings.*another folder"):
        made(work)(SelectConfig(seed=1), inputs, root, out=out)
    assert work.calls == 1


def test_out_that_other_settings_began_is_refused(any_root: str, images: Publish) -> None:
    inputs, out = {"images": images(f"{any_root}/in")}, f"{any_root}/out"
    with pytest.raises(Killed):
        made(Work(dies_after=2))(SelectConfig(), inputs, any_root, out=out)
    with pytest.raises(ConfigurationError, match="another folder, or delete this one"):
        made(Work())(SelectConfig(threshold=0.5), inputs, any_root, out=out)
    assert made(Work())(SelectConfig(), inputs, any_root, out=out).facts == {"threshold": 0.3}


def test_out_of_wrong_settings_is_free_for_the_right_ones(any_root: str, images: Publish) -> None:
    inputs, out = {"images": images(f"{any_root}/in")}, f"{any_root}/out"
    with pytest.raises(Killed):
        made(Work(dies_after=0))(SelectConfig(), inputs, any_root, out=out)
    assert made(Work())(SelectConfig(threshold=0.5), inputs, any_root, out=out).facts == {"threshold": 0.5}


def test_part_that_was_lost_is_found_on_reuse(root: str, images: Publish) -> None:
    inputs, out = {"images": images(f"{root}/in")}, f"{root}/out"
    made(Work())(SelectConfig(), inputs, root, out=out)
    Path(out, "part-2").unlink()
    with pytest.raises(CorruptArtifactError, match="part-2 is missing"):
        made(Work())(SelectConfig(), inputs, root, out=out)


def test_input_must_be_finished(root: str) -> None:
    work = Work()
    with pytest.raises(SourceError, match="run the stage that makes it"):
        made(work)(SelectConfig(), {"images": f"{root}/nothing"}, root)
    assert work.calls == 0


def test_input_of_another_kind_is_refused(any_root: str, images: Callable[..., str]) -> None:
    url = images(f"{any_root}/in")
    with pytest.raises(SourceError, match="holds images, must hold predictions; give the folder of such an artifact"):
        input_digests({"predictions": url})


def test_weights_of_the_same_path_and_other_content_give_another_key(tmp_path: Path) -> None:
    weights = tmp_path / "net.safetensors"
    weights.write_bytes(b"one")
    before = input_digests({"weights": str(weights)})
    weights.write_bytes(b"other")
    assert input_digests({"weights": str(weights)}) != before
