"""Any checkpoint on any benchmark: ours, timm's or a file; on images of your own, or on a released benchmark."""

from typing import Any

from prefect import flow

from flows.noisy_student import THREADS
from flows.parameters import AtLeastOne, EngineName, Overrides, Suite, Url
from noisystudent_core.config.model_evaluation import ModelEvaluation
from tasks.hooks import INTERRUPTION, numbered
from tasks.measure import check_inputs, measure_model, tabulate
from tasks.session import checked_root, tracked


@flow(name="evaluate-model", flow_run_name=numbered("{checkpoint}"), task_runner=THREADS, **INTERRUPTION)
def evaluate_model(
    checkpoint: Url,
    images: Url | None = None,
    folders: dict[str, Url] | None = None,
    suites: list[Suite] | None = None,
    model: str | None = None,
    num_classes: AtLeastOne | None = None,
    root: Url | None = None,
    engine: EngineName = "local",
    overrides: Overrides | None = None,
) -> list[dict[str, Any]]:
    """Measure a model, and report on it; returns a row per benchmark and metric, with the address of the report.

    Args:
        checkpoint: A checkpoint's folder or URL, "timm:NAME" for weights that timm publishes, or a safetensors file.
        images: Labelled images of your own, as the flow noisy-student takes them.
        folders: Released benchmarks by kind: {"imagenet_c": URL}; imagenet_p, imagenet_a, real, or folder, any with
            a folder for each class. A folder is the class of its name; where the checkpoint's classes have no names,
            of its number, or as `class_names` in `overrides` says.
        suites: What is measured on `images` beside accuracy: corruptions, perturbations, adversarial.
        model: timm name of the net, where `checkpoint` is a file.
        num_classes: Classes of the images; by default the checkpoint's.
        root: Where artifacts go, a folder or s3:// URL; by default .noisy-student/artifacts.
        engine: Where stages run: "local", the devices of this machine, or "ray", the GPUs of a cluster.
        overrides: Settings by dotted path, as {"robustness.corruptions.num_images": 200} or {"class_names": [...]},
            what the net's classes are called in folders and images ("sorted": as these, in their order).
    """
    config = ModelEvaluation.of(checkpoint, images, folders, suites, model, num_classes, overrides)
    settings = config.model_dump(mode="json")
    check_inputs(config)
    url = checked_root(root)
    with tracked(url, engine, name=f"evaluate {checkpoint}", identity=[settings, url], params=settings, tags={}) as run:
        return tabulate.submit(measure_model(config, run), config, run).result()
