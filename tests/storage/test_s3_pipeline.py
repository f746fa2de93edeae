"""The whole method in a bucket that fails every fifth request ends with the bytes of an undisturbed run."""

from collections.abc import Callable, Mapping

from noisystudent_core.config import EvaluateConfig, ExclusionsConfig
from noisystudent_core.storage.manifest import Artifact
from noisystudent_core.storage.verify import artifact_urls, problems
from tests.stages.small import DISTRIBUTIONS, STUDENT, Small
from tests.storage.faulty_s3 import FaultyS3

RATES = {"503": 0.06, "cut": 0.05, "lost": 0.05, "short": 0.05, "500": 0.02, "reset": 0.02, "409": 0.02}


def test_whole_method_gives_the_bytes_of_an_undisturbed_run(
    root: str, s3_root: str, faulty_s3: FaultyS3, write_sources: Callable[[str], dict[str, str]]
) -> None:
    undisturbed = contents(root, write_sources(root))
    sources = write_sources(s3_root)
    faulty_s3.rates = RATES
    faulty_s3.next_faults(*RATES)  # none of them by chance alone
    assert contents(s3_root, sources) == undisturbed
    assert {kind for kind, *_ in undisturbed} >= {
        "images",
        "checkpoints",
        "predictions",
        "selection",
        "exclusions",
        "evaluations",
    }
    assert set(faulty_s3.faults) == set(RATES)
    assert [list(problems(url)) for url in artifact_urls(s3_root)] == [[]] * len(undisturbed)


def contents(root: str, sources: Mapping[str, str]) -> list[tuple[str, str, int, str]]:
    """Kind, stage, rows and content digest of every artifact of one iteration."""
    small = Small(root)
    data = small.prepare_all(sources)
    evaluation = {split: data[split] for split in ("validation", "test")}
    exclusions = small.run("exclusions", ExclusionsConfig(), {"unlabelled": data["unlabelled"], **evaluation})
    teacher = small.teacher(data)
    selection = small.selection(data, teacher, exclusions=exclusions)
    chosen = {"images": data["unlabelled"], "selection": selection}
    labels = small.run("predict", DISTRIBUTIONS, {"checkpoint": teacher, **chosen})
    labelled = {split: data[split] for split in ("labelled", "validation")}
    student = small.run("fit", STUDENT, {**labelled, **chosen, "predictions": labels})
    small.run("evaluate", EvaluateConfig(), {"checkpoint": student, "images": data["test"]})
    manifests = [Artifact.open(url).manifest for url in artifact_urls(root)]
    return sorted((each.kind, each.stage, each.num_rows, each.content_digest) for each in manifests)
