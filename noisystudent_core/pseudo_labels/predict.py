"""A model's opinion of every image of a part, in eval mode, without noise (Algorithm 1, step 2)."""

import pyarrow as pa
import torch
from torch import Tensor, nn

from noisystudent_core.config.settings import PredictConfig
from noisystudent_core.data.parts import decode
from noisystudent_core.data.schemas import PREDICTIONS, distributions


def predict_rows(net: nn.Module, table: pa.Table, config: PredictConfig, size: int, crop_fraction: float) -> pa.Table:
    """Predict rows of the `images` schema; returns as many rows of the `predictions` schema, in order.

    An undecodable image has a null label and its reason. Batches have a fixed size, the last one padded with zeros,
    so that a row's bytes do not depend on how many follow it.
    """
    images, reasons = decode(table, size, crop_fraction)
    probabilities = predict_probabilities(net, images, config.batch_size)
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
def predict_probabilities(net: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """Softmax of the net's logits: uint8 [N, 3, S, S] -> float32 [N, C] on the CPU."""
    device = next(net.parameters()).device
    found = []
    for start in range(0, max(1, len(images)), batch_size):  # a part without rows still has its [0, C]
        batch = images[start : start + batch_size]
        padded = torch.cat([batch, batch.new_zeros(batch_size - len(batch), *batch.shape[1:])])
        logits = net(padded.to(device, non_blocking=True))
        found.append(logits.softmax(1)[: len(batch)].cpu())
    return torch.cat(found)
