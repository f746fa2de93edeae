"""Images that nets get wrong: one model, or the first teacher where the last student is right, and the other way."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from noisystudent_core.config.evaluation import ModelReportConfig, ReportConfig
from noisystudent_core.data.parts import decode, read_images
from noisystudent_core.evaluation.figures import Group
from noisystudent_core.evaluation.galleries import Gallery, tiles
from noisystudent_core.evaluation.metrics import ranks
from noisystudent_core.evaluation.report import Model
from noisystudent_core.models import checkpoints
from noisystudent_core.models.architectures import Normalised, device
from noisystudent_core.stages.selected import spaced
from noisystudent_core.storage.manifest import Artifact, Inputs

NUM_PICTURES = 24  # of each group
COLUMNS = ["image", "label", "reason", "height", "width"]


@dataclass(frozen=True, kw_only=True)
class Disagreements:
    """Pictures of images that a net gets wrong, maybe where another one is right, and their number in words."""

    galleries: list[Gallery]
    summary: str


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """What a net says of N images: whether its class is right, the class, and its confidence."""

    right: Tensor  # bool [N]
    label: Tensor  # int64 [N]
    confidence: Tensor  # float32 [N]


def disagreements(
    config: ReportConfig, inputs: Inputs, models: Sequence[Model], names: Sequence[str] | None
) -> Disagreements | None:
    """Ask both nets about at most `config.num_images` of the reported images, evenly spaced.

    None where there is no student, or no image among the inputs ("test" or "validation").
    """
    which = "test" if config.has_test else "validation"
    if len(models) < 2 or which not in inputs:
        return None
    images = _sample(config, inputs[which])
    label = torch.from_numpy(images["label"].to_numpy().astype("int64"))
    teacher, student = _ask(config, [str(models[number]["checkpoint"]) for number in (0, -1)], images, label)
    better, worse = ~teacher.right & student.right, teacher.right & ~student.right
    num_images = Artifact.open(inputs[which]).manifest.num_rows
    groups = [
        _group("Now right", "teacher", images, label, better, teacher, names),
        _group("Now wrong", "student", images, label, worse, student, names),
    ]
    shown = [group for group in groups if len(group.captions)]
    summary = (
        f"Of {len(label):,} of the {num_images:,} {which} images, the last student gets {int(better.sum()):,} right "
        f"that the first teacher got wrong, and {int(worse.sum()):,} wrong that it got right; both are right on "
        f"{int((teacher.right & student.right).sum()):,}, neither on {int((~teacher.right & ~student.right).sum()):,}."
    )
    gallery = Gallery(
        name="disagreements",
        title="Where the last student differs from the first teacher",
        subtitle="Above: the true class; below: what the net that is wrong says, the surest first",
        caption="Beneath each image its true class, then what the net that is wrong says, the surest first. "
        "Nothing is chosen on these pictures.",
        groups=shown,
    )
    return Disagreements(galleries=[gallery] if shown else [], summary=summary)


def mistakes(config: ModelReportConfig, checkpoint: str, url: str, names: Sequence[str] | None) -> Disagreements:
    """Ask a net about at most `config.num_images` of the images at `url`, evenly spaced."""
    images = _sample(config, url)
    label = torch.from_numpy(images["label"].to_numpy().astype("int64"))
    (answers,) = _ask(config, [checkpoint], images, label)
    num_wrong, num_images = int((~answers.right).sum()), sum(Artifact.open(url).manifest.facts["class_counts"].values())
    gallery = Gallery(
        name="mistakes",
        title="What the model gets wrong",
        subtitle="Above: the true class; below: what the model says, the surest first",
        caption="Beneath each image its true class, then what the model says instead, the surest first: a wrong label "
        "looks like this, too.",
        groups=[_group("Wrong", "says", images, label, ~answers.right, answers, names)],
    )
    return Disagreements(
        galleries=[gallery] if num_wrong else [],
        summary=f"Of {len(label):,} of the {num_images:,} images, the model gets {num_wrong:,} wrong.",
    )


def _sample(config: ReportConfig | ModelReportConfig, url: str) -> pa.Table:
    """Rows that were decodable and have a label, evenly spaced over parts that are."""
    artifact = Artifact.open(url)
    parts = [part for part in artifact.manifest.parts if part.num_rows]
    chosen = [parts[place] for place in spaced(len(parts), config.num_parts)]
    shares = np.diff(np.linspace(0, config.num_images, len(chosen) + 1).astype(int))
    tables = []
    for part, share in zip(chosen, shares.tolist(), strict=True):
        table = read_images(artifact, part, COLUMNS).filter(pc.field("reason").is_null() & pc.field("label").is_valid())
        tables.append(table.take(spaced(len(table), share)))
    return pa.concat_tables(tables)


def _ask(
    config: ReportConfig | ModelReportConfig, urls: Sequence[str], images: pa.Table, label: Tensor
) -> list[_Answers]:
    """What each checkpoint says; images are decoded once for all that take them at one size and crop."""
    asked = [checkpoints.load(url) for url in urls]
    nets = [(Normalised(net).to(device()).eval(), checkpoints.input_geometry(known)) for net, known in asked]
    logits: list[list[Tensor]] = [[] for _ in nets]
    for start in range(0, len(images), config.batch_size):
        rows = images.slice(start, config.batch_size)
        pixels = {how: decode(rows, *how)[0].to(device()) for how in {how for _, how in nets}}
        with torch.inference_mode():
            for found, (net, how) in zip(logits, nets, strict=True):
                found.append(net(pixels[how]).float().cpu())
    return [_answers(torch.cat(found), label) for found in logits]


def _answers(logits: Tensor, label: Tensor) -> _Answers:
    confidence, said = logits.softmax(1).max(1)
    return _Answers(right=ranks(logits, label) == 0, label=said, confidence=confidence)


def _group(
    heading: str,
    who: str,
    images: pa.Table,
    label: Tensor,
    which: Tensor,
    wrong: _Answers,
    names: Sequence[str] | None,
) -> Group:
    """The surest errors of one net among the images `which`, bool [N]."""
    rows = which.nonzero()[:, 0]
    rows = rows[wrong.confidence[rows].argsort(descending=True, stable=True)][:NUM_PICTURES]
    pixels, _ = tiles(images.take(rows.numpy()))
    return Group(
        heading=f"{heading}: {int(which.sum()):,}",
        images=pixels,
        captions=[_name(names, int(label[row])) for row in rows],
        notes=[f"{who}: {_name(names, int(wrong.label[row]))} {float(wrong.confidence[row]):.0%}" for row in rows],
    )


def _name(names: Sequence[str] | None, label: int) -> str:
    return names[label] if names else str(label)
