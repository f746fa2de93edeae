"""The net as it labels: batch norm folded, channels last, bfloat16 on a GPU, in batches of one size."""

import threading

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisystudent_core.config.settings import PredictConfig
from noisystudent_core.models.folding import folded

# of a batch on a CPU: activations of larger ones are handed out by the system page by page, each time anew
CPU_PIXELS = 8 * 224 * 224


class Forward:
    """`forward(images, seeds_B)`: what the net says of at most `batch_size` images uint8 [n, 3, size, size].

    The batch is padded with zeros to `batch_size`, so that a row's bytes do not depend on how many follow it. To be
    called from any number of threads; on a CPU of those with one of torch's threads, so that no sum depends on cores.
    """

    def __init__(self, net: nn.Module, config: PredictConfig, size: int) -> None:
        self.device = next(net.parameters()).device
        on_gpu = self.device.type == "cuda"
        self.batch_size = config.batch_size if on_gpu else min(config.batch_size, max(1, CPU_PIXELS // size**2))
        self._is_noised = config.noise is not None
        net = net if self._is_noised else folded(net).to(memory_format=torch.channels_last)
        self._net = torch.compile(net, dynamic=False) if config.compile else net
        self._in_bf16 = config.precision == "bf16" or (config.precision == "auto" and on_gpu)
        self._alone = threading.Lock()  # a noised net keeps the seeds of the batch; and torch.compile works once
        self._is_ready = not config.compile

    @torch.inference_mode()
    def __call__(self, images: Tensor, seeds_B: Tensor | None = None) -> Tensor:
        """Softmax of the logits, float32 [n, C], on the CPU."""
        inputs = [images] if seeds_B is None else [images, seeds_B]
        padded = [self._padded(rows).to(self.device, non_blocking=True) for rows in inputs]
        with torch.autocast(self.device.type, torch.bfloat16, self._in_bf16):
            logits = self._logits(padded)
        return logits.float().softmax(1)[: len(images)].cpu()

    def _logits(self, inputs: list[Tensor]) -> Tensor:
        if self._is_ready and not self._is_noised:
            return self._net(*inputs)
        with self._alone:
            logits = self._net(*inputs)
            self._is_ready = True
        return logits

    def _padded(self, rows: Tensor) -> Tensor:
        missing = self.batch_size - len(rows)
        return F.pad(rows, [0, 0] * (rows.ndim - 1) + [0, missing]) if missing else rows
