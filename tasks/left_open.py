"""Stages whose artifact was finished, but whose process was killed before MLflow had their numbers."""

from functools import cache

from tasks.tracking import PARENT_TAG, STAGE_TAG, Tracker


@cache
def left_open(tracker: Tracker, parent_run_id: str | None) -> frozenset[str]:
    """Keys of the stages under this run whose own runs have not ended well; asked for once in a process."""
    keys: set[str] = set()
    for attempt in tracker.attempts("look for stages that were not ended"):
        with attempt:
            if parent_run_id is not None:
                client = tracker.client()
                experiment_id = client.get_run(parent_run_id).info.experiment_id
                condition = f"tags.`{PARENT_TAG}` = '{parent_run_id}' and attributes.status != 'FINISHED'"
                found = client.search_runs([experiment_id], condition)
                keys |= {run.data.tags[STAGE_TAG] for run in found if STAGE_TAG in run.data.tags}
    return frozenset(keys)
