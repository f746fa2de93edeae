"""A fit on several processes, each with its own share of every batch, as one of them sees it.

Gradients are averaged over the processes while they are computed (`DistributedDataParallel`), so that all hold the same
weights. The first one alone validates, writes and reports. Batch-norm statistics are each process's own, those of the
first one are kept, unless `train.sync_batch_norm` takes them over all. Dropout and stochastic depth draw for each
process by itself; a fit without them, and without batch norm, is the same on any number of processes up to rounding.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from noisystudent_core import interruption
from noisystudent_core.config.settings import FitConfig, TrainConfig
from noisystudent_core.data.mixing import derive
from noisystudent_core.data.streams import Share
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.models.architectures import Normalised

TIMEOUT = timedelta(hours=2)  # of the others, while the first one validates, saves or waits for another run's fit


@dataclass(frozen=True)
class Group:
    """The processes of a fit: this one's share, and how their hosts talk to one another; None: it is alone."""

    share: Share
    host: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that validates, writes and reports."""
        return self.share.rank == 0

    def from_first(self, value: Any) -> Any:
        """What the first process gives; the others wait for it."""
        if self.host is None:
            return value
        found = [value]
        dist.broadcast_object_list(found, group=self.host, group_src=0)
        return found[0]

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """The mean of each value over the processes."""
        if self.host is None:
            return values
        sums = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(sums, group=self.host)
        return dict(zip(values, (sums / self.share.world).tolist(), strict=True))

    def seed(self, seed: int, step: int) -> int:
        """The seed of a step's dropout and stochastic depth: another one for each process."""
        rank = self.share.rank
        return derive(seed, f"dropout {rank}" if rank else "dropout", step)

    def parallel(self, net: Normalised) -> DistributedDataParallel:
        """The net, its gradients averaged over the processes; frozen parameters have none.

        Buffers are not broadcast at each step: those of the first process are kept, and none is read in a fit.
        """
        parallel = DistributedDataParallel(net, gradient_as_bucket_view=True)
        parallel.broadcast_buffers = False  # after the start; as an argument it has another name in each version
        return parallel

    def synchronised(self, net: Normalised, train: TrainConfig) -> Normalised:
        """The net, batch norm taking its statistics over all processes where `train` says so."""
        if train.sync_batch_norm and self.share.world > 1:
            net.net = convert_sync_batchnorm(net.net)  # torch's own would drop the activations in timm's layers
        return net

    @contextmanager
    def heeded(self) -> Iterator[Callable[[], bool]]:
        """As `interruption.heeded`, asked once a step: all processes hear of a request to one of them at one step."""
        with interruption.heeded() as asked:
            if self.host is None:
                yield asked
                return
            vote = _Vote(self.host, asked)
            yield vote
            vote.result()


ALONE = Group(Share())


class _Vote:
    """Whether any process was asked to stop, told to all a step later, so that no step waits for it."""

    def __init__(self, host: dist.ProcessGroup, asked: Callable[[], bool]) -> None:
        self._host, self._asked = host, asked
        self._cast: tuple[Tensor, dist.Work | None] | None = None

    def __call__(self) -> bool:
        result = self.result()
        flag = torch.tensor([self._asked()], dtype=torch.uint8)
        self._cast = flag, dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._host, async_op=True)
        return result

    def result(self) -> bool:
        """What was found by the vote cast last."""
        if self._cast is None:
            return False
        (flag, work), self._cast = self._cast, None
        if work is not None:
            work.wait()
        return bool(flag)


@contextmanager
def joined() -> Iterator[Group | None]:
    """The process group that this process is in, begun here if torchrun started it; None where it is in none.

    Whoever began a group before, as Ray Train does, ends it.
    """
    begun_before = dist.is_initialized()
    if not begun_before and not dist.is_torchelastic_launched():
        yield None
        return
    if not begun_before:
        _begin()
    host = dist.new_group(backend="gloo", timeout=TIMEOUT)
    assert isinstance(host, dist.ProcessGroup)  # all are members
    yield Group(Share(dist.get_rank(), dist.get_world_size()), host)  # after an error the process ends as it is:
    dist.destroy_process_group(host if begun_before else None)  # taking leave of one that died would wait


def check_batch_norm(train: TrainConfig, device: torch.device) -> None:
    """Raise `ConfigurationError` for batch norm over processes on a CPU."""
    if train.sync_batch_norm and device.type != "cuda":
        raise ConfigurationError(
            f"train.sync_batch_norm=True on {device.type}: torch synchronises batch norm on CUDA GPUs only; leave it "
            "off, or fit on GPUs"
        )


def check_processes(config: FitConfig, num_processes: int, device: torch.device) -> None:
    """Raise `ConfigurationError` for a fit that so many processes cannot carry out on such devices."""
    config.check_shares(num_processes)
    check_batch_norm(config.train, device)


def _begin() -> None:
    """Begin the process group of torchrun's environment: NCCL with a GPU each, or gloo."""
    if not torch.cuda.is_available():
        dist.init_process_group("gloo", timeout=TIMEOUT)
        return
    own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(own)
    dist.init_process_group("nccl", timeout=TIMEOUT, device_id=own)
