"""A model's opinion of every image of a part, in eval mode (Algorithm 1, step 2).

There is no noise here: the noised teacher of table 6's ablation is a net that the caller brings.
"""

import pyarrow as pa
import torch
from torch import Tensor, nn

from noisystudent_core.config.settings import PredictConfig
from noisystudent_core.data.mixing import id_seeds
from noisystudent_core.data.parts import decode
from noisystudent_core.data.schemas import PREDICTIONS, distributions


def predict_rows(net: nn.Module, table: pa.Table, config: PredictConfig, size: int, crop_fraction: float) -> pa.Table:
    """Predict rows of the `images` schema; returns as many rows of the `predictions` schema, in order.

    An undecodable image has a null label and its reason. Batches have a fixed size, the last one padded with zeros,
    so that a row's bytes do not depend on how many follow it. Where `config.noise` is set, `net` takes a seed for each
    image beside it, of the image's id.
    """
    images, reasons = decode(table, size, crop_fraction)
    seeds = None if config.noise is None else id_seeds(config.noise.seed, table["image_id"])
    probabilities = predict_probabilities(net, images, config.batch_size, seeds)
    confidence, label = probabilities.max(1)
    bad = pa.array([reason is not None for reason in reasons], pa.bool_())
    columns = {
        "image_id": table["image_id"],
        "label": pa.array(label.to(torch.int32).numpy(), mask=bad.to_numpy(zero_copy_only=False)),
        "confidence": pa.array(confidence.numpy(), mask=bad.to_numpy(zero_copy_only=False)),
        "reason": pa.array(reasons, pa.string()),
    }
    if config.keep == "label":
        return pa.table(columns, schema=PREDICTIONS)
    num_classes = probabilities.shape[1]
    flat = pa.array(probabilities.to(torch.float16).flatten().numpy())
    columns["probabilities"] = pa.FixedSizeListArray.from_arrays(flat, num_classes)
    return pa.table(columns, schema=distributions(num_classes))


@torch.inference_mode()
def predict_probabilities(net: nn.Module, images: Tensor, batch_size: int, seeds: Tensor | None = None) -> Tensor:
    """Softmax of the net's logits: uint8 [N, 3, S, S], int64 [N] where seeds are taken -> float32 [N, C] on the CPU."""
    device = next(net.parameters()).device
    inputs = [images] if seeds is None else [images, seeds]
    found = []
    for start in range(0, max(1, len(images)), batch_size):  # a part without rows still has its [0, C]
        batch = [_padded(rows[start : start + batch_size], batch_size) for rows in inputs]
        logits = net(*(rows.to(device, non_blocking=True) for rows in batch))
        found.append(logits.softmax(1)[: len(images) - start].cpu())
    return torch.cat(found)


def _padded(rows: Tensor, batch_size: int) -> Tensor:
    return torch.cat([rows, rows.new_zeros(batch_size - len(rows), *rows.shape[1:])])
