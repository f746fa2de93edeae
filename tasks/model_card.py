"""The model card of a published student: what it was trained on and how, its table, its limits, its licence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noisystudent_core.config import SPLITS, NoisyStudentConfig
from noisystudent_core.evaluation import report
from noisystudent_core.storage.manifest import Artifact, Manifest, artifact_url, finished, input_digests
from tasks.mlflow_connection import without_secrets

USED = {
    "labelled": "learnt with their labels",
    "unlabelled": "learnt with pseudo labels, where selected",
    "validation": "choices were made on them",
    "test": "reported on, nothing was chosen on them",
}


@dataclass(frozen=True)
class DataSet:
    """A prepared source of a run."""

    split: str
    source: str
    manifest: Manifest


def data_sets(config: NoisyStudentConfig, root: str) -> dict[str, DataSet]:
    """The prepared sources of a run by split, found by their keys; one whose source changed since is not among them."""
    found = {}
    for split in SPLITS:
        if (source := config.source(split)) is None:
            continue
        url = artifact_url(config.prepare(split), input_digests({"source": source}), root)
        if (manifest := finished(url)) is not None:
            found[split] = DataSet(split, source, manifest)
    return found


def validation_metrics(config: NoisyStudentConfig, root: str, checkpoint: str) -> dict[str, float]:
    """What was measured of a checkpoint on the validation images: top1, top5, macro_f1, ..."""
    images = artifact_url(
        config.prepare("validation"), input_digests({"source": str(config.source("validation"))}), root
    )
    digests = input_digests({"checkpoint": checkpoint, "images": images})
    measured = Artifact.open(artifact_url(config.evaluate("validation"), digests, root)).manifest
    return {name: value for name, value in measured.facts["metrics"].items() if "/" not in name}


def model_card(
    config: NoisyStudentConfig, rows: Sequence[dict[str, Any]], student: Manifest, data: Mapping[str, DataSet]
) -> str:
    """The card in Markdown."""
    last = rows[-1]
    selected = student.inputs.get("selection")
    return "\n".join(
        [
            f"# {config.name}: student {last['iteration']}, {last['model']}\n",
            f"Licence: {config.publication.license}\n",
            "## What it was trained on\n",
            "| data | images | content digest | source | use |\n| --- | --- | --- | --- | --- |",
            *(_data_line(each) for each in data.values()),
            f"\nOf the unlabelled images those of selection `{selected}`.\n" if selected else "",
            "## How\n",
            f"Noisy Student Training, recipe `{config.name}`, seed {config.seed}: a noised teacher on the labelled "
            f"images, then {len(config.iterations)} student(s), each on labelled and pseudo-labelled images under "
            f"noise. Checkpoint `{student.kind}/{student.key}`, content digest `{student.content_digest}`; "
            f"{', '.join(f'{name} {version}' for name, version in student.versions.items())}.\n",
            "## Results\n",
            report.markdown(config, rows).partition("\n")[2].strip() + "\n",  # less its own title
            "## Limits\n",
            *_limits(config, student),
        ]
    )


def _data_line(data: DataSet) -> str:
    source = without_secrets(data.source).replace("\n", ", ")
    return (
        f"| {data.split} | {data.manifest.num_rows:,} | `{data.manifest.content_digest}` | {source} | "
        f"{USED[data.split]} |"
    )


def _limits(config: NoisyStudentConfig, student: Manifest) -> list[str]:
    size = student.config["model"]["resolution_px"]
    names = config.data.class_names
    classes = f"{config.data.num_classes} classes" + (f" ({', '.join(names)})" if names and len(names) <= 20 else "")
    lines = [
        f"- It tells {classes} apart; an image of none of them is given one all the same.",
        f"- It was trained to see images at {size} px.",
        "- Pseudo labels repeat the errors of the teacher that gave them; classes that it confused stay so.",
        "- Its confidences are not calibrated for other data than these.",
    ]
    if config.sources.test is None:
        lines.append("- No test set was kept apart: the figures are on the images that choices were made on.")
    return lines
