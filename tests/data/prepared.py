"""Sources taken in by the stage, and the rows that came out."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from noisystudent_core import stages
from noisystudent_core.config import IngestConfig, PrepareConfig
from noisystudent_core.data.schemas import IMAGES, from_bytes
from noisystudent_core.storage.manifest import Artifact, Manifest

NUM_CLASSES = 3


class Prepared:
    """Sources taken in, each into a folder of its own, and the rows that came out."""

    def __init__(self, root: Path) -> None:
        self._root, self._number = root, 0
        self.out = ""

    def __call__(self, source: str, *, named: bool = True, **settings: Any) -> Manifest:
        own = {name: settings.pop(name) for name in list(settings) if name in IngestConfig.model_fields}
        if not named:
            own.setdefault("num_classes", NUM_CLASSES)
        config = PrepareConfig(ingest=IngestConfig(**own), **{"read_labels": True, **settings})
        self._number += 1
        self.out = str(self._root / str(self._number))
        return stages.prepare(config, {"source": source}, str(self._root), out=self.out)

    def rows(self) -> list[dict[str, Any]]:
        artifact = Artifact.open(self.out)
        tables = [from_bytes(artifact.read(part), IMAGES, part.path) for part in artifact.manifest.parts]
        return pa.concat_tables(tables).to_pylist()

    def images(self) -> list[tuple[bytes, int]]:
        return sorted((row["image"], row["label"]) for row in self.rows())
