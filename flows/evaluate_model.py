"""Any checkpoint on any benchmark: ours, timm's or a file; on images of your own, or on a released benchmark."""

from typing import Any

from prefect import flow

from flows.noisy_student import THREADS
from noisystudent_core.config.model_evaluation import ModelEvaluation
from tasks.measure import measure_model, tabulate
from tasks.session import checked_root, tracked


@flow(name="evaluate-model", flow_run_name="evaluate {checkpoint}", task_runner=THREADS)
def evaluate_model(
    checkpoint: str,
    images: str | None = None,
    folders: dict[str, str] | None = None,
    suites: list[str] | None = None,
    model: str | None = None,
    num_classes: int | None = None,
    root: str | None = None,
    engine: str = "local",
    overrides: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Measure a model; returns a row per benchmark and metric.

    Args:
        checkpoint: A checkpoint's folder or URL, "timm:NAME" for weights that timm publishes, or a safetensors file.
        images: Labelled images of your own, as the flow noisy-student takes them.
        folders: Released benchmarks by kind: {"imagenet_c": URL}; imagenet_p, imagenet_a, real, or folder, any with
            a folder for each class.
        suites: What is measured on `images` beside accuracy: corruptions, perturbations, adversarial.
        model: timm name of the net, where `checkpoint` is a file.
        num_classes: Classes of the images; by default the checkpoint's.
        root: Where artifacts go, a folder or s3:// URL; by default .noisy-student/artifacts.
        engine: Where stages run: "local", the devices of this machine, or "ray", the GPUs of a cluster.
        overrides: Settings of suites and images by dotted path, as {"robustness.corruptions.num_images": 200}.
    """
    config = ModelEvaluation.of(checkpoint, images, folders, suites, model, num_classes, overrides)
    settings = config.model_dump(mode="json")
    url = checked_root(root)
    with tracked(url, engine, name=f"evaluate {checkpoint}", identity=[settings, url], params=settings, tags={}) as run:
        return tabulate.submit(measure_model(config, run), run).result()
