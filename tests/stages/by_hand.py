"""A fit as `torchrun` starts it by hand: each process calls the stage, and says what it found."""

import sys
from pathlib import Path

import torch.distributed as dist

from noisystudent_core import stages
from noisystudent_core.config import FitConfig


def main(config: str, data: str, root: str) -> None:
    dist.init_process_group("gloo")  # as Ray Train does before it calls
    said: list[str] = []
    inputs = {"labelled": data, "validation": data}
    for _ in range(2):  # made, and found again
        manifest = stages.fit(
            FitConfig.model_validate_json(config), inputs, root, lambda event, **fields: said.append(event)
        )
        said.append(manifest.content_digest)
    Path(root, f"said by {dist.get_rank()}").write_text("\n".join(said))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
