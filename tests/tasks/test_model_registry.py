"""Publishing to a real SQLite-backed MLflow: once per checkpoint, the right aliases, the same logits for any batch."""

from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf

from tasks.model_registry import PublishedModel, publish_student
from tasks.tracking import Tracker

NAME = "noisy-student-digits"
METRIC = "validation/top1"


def _checkpoint(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    model = timm.create_model("test_resnet", num_classes=10, pretrained_cfg_overlay={"input_size": (3, 32, 32)})
    save_for_hf(model, str(folder), safe_serialization=True)
    return folder


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    return Tracker(f"sqlite:///{tmp_path}/home/mlflow.db")


def _publish(tracker: Tracker, checkpoint: Path, digest: str, top1: float) -> PublishedModel:
    run_id = tracker.open_run("run", name="run", params={})
    assert run_id is not None
    return publish_student(
        tracker,
        run_id,
        checkpoint_dir=checkpoint,
        checkpoint_digest=digest,
        name=NAME,
        card="# Student\n\nRecognises digits.",
        metrics={METRIC: top1, "validation/top5": 0.99},
        champion_metric=METRIC,
        iteration=2,
    )


def test_loaded_champion_gives_the_checkpoint_s_logits_for_any_batch_size(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    from mlflow.pytorch import load_model

    checkpoint = _checkpoint(tmp_path / "student", seed=0)
    _publish(tracker, checkpoint, "d0", 0.9)
    monkeypatch.setenv(
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false"
    )  # MLflow then refuses an archive with pickled code
    previous = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracker.tracking_uri)
    try:
        loaded = load_model(f"models:/{NAME}@champion")
    finally:
        mlflow.set_tracking_uri(previous)
    student = timm.create_model(f"local-dir:{checkpoint}", pretrained=True).eval()
    for batch_size in (1, 2, 7):
        images = torch.randn(batch_size, 3, 32, 32)
        with torch.inference_mode():
            torch.testing.assert_close(loaded(images), student(images), rtol=1e-5, atol=1e-6)


def test_version_says_what_it_is(tracker: Tracker, tmp_path: Path) -> None:
    published = _publish(tracker, _checkpoint(tmp_path / "student", seed=0), "d0", 0.9)
    client = tracker.client()
    version = client.get_model_version(NAME, str(published.version))
    assert version.description == "# Student\n\nRecognises digits."
    assert version.tags[METRIC] == "0.9"
    assert version.tags["noisy_student.checkpoint"] == "d0"
    assert client.get_registered_model(NAME).aliases == {"teacher": 1, "champion": 1}
    experiment = client.get_experiment_by_name(tracker.experiment)
    assert experiment is not None
    (model,) = client.search_logged_models([experiment.experiment_id])
    assert {metric.key: metric.value for metric in model.metrics or []} == {METRIC: 0.9, "validation/top5": 0.99}
    files = {Path(file.path).name for file in client.list_logged_model_artifacts(model.model_id)}
    assert {"MLmodel", "requirements.txt", "serving_input_example.json", "model_card.md"} <= files
    assert published.uri == f"models:/{NAME}/{published.version}"
    assert not (tmp_path / "mlruns").exists()


def test_aliases_follow_newest_and_best_and_a_rerun_changes_nothing(tracker: Tracker, tmp_path: Path) -> None:
    first = _publish(tracker, _checkpoint(tmp_path / "first", seed=0), "d0", 0.90)
    worse = _publish(tracker, _checkpoint(tmp_path / "worse", seed=1), "d1", 0.85)
    assert first.aliases == ("champion", "teacher")
    assert worse.aliases == ("teacher",)

    again = _publish(tracker, tmp_path / "first", "d0", 0.90)
    assert (again.version, again.created, again.aliases) == (first.version, False, ("champion",))

    better = _publish(tracker, _checkpoint(tmp_path / "better", seed=2), "d2", 0.95)
    assert better.aliases == ("champion", "teacher")
    assert len(tracker.client().search_model_versions(f"name = '{NAME}'")) == 3


def test_publication_cut_short_before_its_aliases_is_completed(tracker: Tracker, tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path / "student", seed=0)
    _publish(tracker, checkpoint, "d0", 0.9)
    for alias in ("teacher", "champion"):
        tracker.client().delete_registered_model_alias(NAME, alias)
    assert _publish(tracker, checkpoint, "d0", 0.9).aliases == ("champion", "teacher")


def test_wrong_folder_and_metric_are_named(tracker: Tracker, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no config\.json and no model\.safetensors"):
        _publish(tracker, tmp_path / "empty", "d0", 0.9)
