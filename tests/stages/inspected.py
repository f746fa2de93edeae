"""Sets of images and their inspection, for tests of it."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from noisystudent_core import stages
from noisystudent_core.config import IngestConfig, InspectConfig, InspectPartsConfig, PrepareConfig
from noisystudent_core.storage.manifest import Artifact, artifact_url, input_digests
from noisystudent_core.storage.prepared import inspection_inputs
from tests.data.test_duplicates import photograph

Picture = Callable[..., bytes]
Given = tuple[Sequence[bytes], Sequence[int] | None]
NUM_CLASSES = 3
PARTS = InspectPartsConfig()


def photo(number: int, quality: int = 95) -> bytes:
    sink = io.BytesIO()
    photograph(number, 96, 64).save(sink, "JPEG", quality=quality)
    return sink.getvalue()


class Sets:
    """Sets of images under a root, four images a part, and their inspection."""

    def __init__(self, root: str, write_source: Callable[..., str]) -> None:
        self.root, self._write = root, write_source

    def images(self, name: str, data: Sequence[bytes], labels: Sequence[int] | None = None, **ingest: Any) -> str:
        paths = [f"{name}-{number}.jpg" for number in range(len(data))]
        source = self._write(f"{self.root}/sources/{name}.parquet", data, labels, paths)
        given = {"num_classes": None if labels is None else NUM_CLASSES, "images_per_part": 4, **ingest}
        config = PrepareConfig(ingest=IngestConfig(**given), max_bad_fraction=1)
        stages.prepare(config, {"source": source}, self.root)
        return artifact_url(config, input_digests({"source": source}), self.root)

    def inputs(self, **images: str) -> dict[str, str]:
        looked_at = {}
        for name, url in images.items():
            stages.inspect_parts(PARTS, {"images": url}, self.root)
            looked_at[name] = artifact_url(PARTS, input_digests({"images": url}), self.root)
        return inspection_inputs(images, looked_at)

    def inspect(self, told: Any = None, config: Any = None, **images: str) -> Artifact:
        inputs, config = self.inputs(**images), config or InspectConfig()
        stages.inspect(config, inputs, self.root, *([told] if told else []))
        return Artifact.open(artifact_url(config, input_digests(inputs), self.root))

    def of(self, config: Any = None, **sets: Given) -> dict[str, Any]:
        """The numbers of an inspection of these images and labels."""
        images = {name: self.images(name, *given) for name, given in sets.items()}
        return json.loads(self.inspect(config=config, **images).folder.read("inspection.json"))


def levels(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(finding["level"], finding["text"]) for finding in found["findings"]]


def near_copies() -> dict[str, Given]:
    """Of the unlabelled images two are test images compressed again, one is a test image, two are of photograph 9."""
    unlabelled = [photo(n) for n in (8, 9, 11, 12)] + [photo(9, 50), photo(5, 60), photo(6, 60), photo(4)]
    return {"unlabelled": (unlabelled, None), "test": ([photo(n) for n in (4, 5, 6, 23)], [0, 1, 2, 0])}
