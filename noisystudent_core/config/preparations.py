"""From options as users give them to the settings of the intake, one for each side of a split."""

from collections.abc import Mapping
from typing import Any

from noisystudent_core.config.data import IngestConfig, PrepareConfig
from noisystudent_core.config.overrides import validated

WHOLE = ""  # the name of a source that is not divided


def preparations(given: Mapping[str, Any], *, labelled: bool = False) -> dict[str, PrepareConfig]:
    """Settings that take in a source whole, or the sides of a split by name: labelled, validation, unlabelled.

    `given` are fields of `PrepareConfig` and `IngestConfig`; whatever else is in it does not count. Without
    `validation_share` and `labelled_per_class` nothing is divided. Raises `ConfigurationError` for a wrong value.
    """
    settings = {name: given[name] for name in PrepareConfig.model_fields if name in given}
    settings["ingest"] = {name: given[name] for name in IngestConfig.model_fields if name in given}
    share, per_class = given.get("validation_share"), given.get("labelled_per_class")
    if not share and per_class is None:
        read_labels = labelled or given.get("class_names") is not None
        return {WHOLE: validated({**settings, "read_labels": read_labels}, PrepareConfig)}
    sides = {"labelled": "training"} | ({"validation": "validation"} if share else {})
    sides |= {"unlabelled": "unlabelled"} if per_class else {}
    return {
        name: validated({**settings, "read_labels": True, "share": side}, PrepareConfig) for name, side in sides.items()
    }
