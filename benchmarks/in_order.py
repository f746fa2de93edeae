"""Algorithm 1 without an orchestrator: the flow's stages called in the flow's order, in this process.

For machines that have no Prefect. A test holds the artifacts that it makes to those of the flow.
"""

from collections.abc import Callable, Mapping
from typing import Any

from noisystudent_core import stages
from noisystudent_core.config import SPLITS, NoisyStudentConfig, StageSettings
from noisystudent_core.config.evaluation import Adversarial
from noisystudent_core.errors import ConfigurationError, CorruptArtifactError
from noisystudent_core.events import Events, silent
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import NAME, Artifact, artifact_url, input_digests

Urls = dict[str, str]  # of artifacts, by what a stage calls them
Say = Callable[[str], None]


class InOrder:
    """A run of one configuration under one root, stage after stage.

    A finished stage is not called again, even if no more than its manifest is left; where another stage then needs its
    parts they are made anew, and have to be the same.
    """

    def __init__(self, config: NoisyStudentConfig, root: str, say: Say = print, events: Events = silent) -> None:
        _check(config)
        self.config, self.root = config, root
        self._say, self._events = say, events
        self._calls: dict[str, tuple[str, StageSettings, Mapping[str, str]]] = {}

    def algorithm_1(self) -> tuple[list[Urls], Urls]:
        """All of it: artifact URLs of each iteration, for `report.iterations`, and of what the page pictures."""
        config = self.config
        data = {split: self._call("prepare", config.prepare(split), source=url) for split, url in self._sources()}
        learnt_from = {"labelled": data["labelled"], "validation": data["validation"]}
        teacher = self._call("fit", config.fit_teacher(), **learnt_from)
        models = [self._measure(teacher, 0, data)]
        selection = self._select(teacher, data)
        selected = {name: selection[name] for name in ("images", "selection")}
        for i in config.student_iterations:
            pseudo = self._call("predict", config.teach(i), checkpoint=teacher, **selected)
            initial = {"initial": teacher} if config.iterations[i - 1].warm_start else {}
            settings = config.fit_student(i)
            teacher = self._call("fit", settings, **learnt_from, **selected, predictions=pseudo, **initial)
            models.append(self._measure(teacher, i, data) | self._baseline(i, data))
        return models, {**selection, self._reported: data[self._reported]}

    def _sources(self) -> list[tuple[str, str]]:
        sources = [(split, self.config.source(split)) for split in SPLITS]
        return [(split, url) for split, url in sources if url is not None]

    @property
    def _reported(self) -> str:
        return "test" if self.config.sources.test else "validation"

    def _select(self, teacher: str, data: Urls) -> Urls:
        config, unlabelled = self.config, {"unlabelled": data["unlabelled"]}
        evaluation = {split: url for split, url in data.items() if split in ("validation", "test")}
        hashing = config.fingerprint()
        hashes = {} if hashing is None else {"fingerprints": self._call("fingerprint", hashing, **unlabelled)}
        exclusions = self._call("exclusions", config.exclusions(), **unlabelled, **evaluation, **hashes)
        label = config.predict("label")
        made_of = {
            "images": data["unlabelled"],
            "predictions": self._call("predict", label, checkpoint=teacher, images=data["unlabelled"]),
            "exclusions": exclusions,
        }
        selection = self._call(
            "select",
            config.select(),
            **made_of,
            labelled=data["labelled"],
            validation_predictions=self._call("predict", label, checkpoint=teacher, images=data["validation"]),
            validation_images=data["validation"],
        )
        return made_of | {"selection": selection}

    def _baseline(self, i: int, data: Urls) -> Urls:
        if not self.config.baselines:
            return {}
        learnt_from = {"labelled": data["labelled"], "validation": data["validation"]}
        net = self._call("fit", self.config.fit_baseline(i), **learnt_from)
        accuracy = self._evaluate(self._reported, net, data)
        suites = self._robustness(net, i, data)
        return {"supervised": accuracy} | {f"supervised_{kind}": url for kind, url in suites.items()}

    def _measure(self, net: str, i: int, data: Urls) -> Urls:
        found = {split: self._evaluate(split, net, data) for split in ("validation", "test") if split in data}
        return {"checkpoint": net, **found, **self._robustness(net, i, data)}

    def _evaluate(self, split: str, net: str, data: Urls) -> str:
        return self._call("evaluate", self.config.evaluate(split), checkpoint=net, images=data[split])

    def _robustness(self, net: str, i: int, data: Urls) -> Urls:
        found, images = {}, data[self._reported]
        for suite in self.config.robustness.suites:
            seen = {"images": images}
            if not isinstance(suite, Adversarial):
                seen = {"corrupted": self._call("corrupt", self.config.corrupt(suite, i), images=images)}
            settings = self.config.evaluate(self._reported, suite)
            found[suite.kind] = self._call("evaluate", settings, checkpoint=net, **seen)
        return found

    def _call(self, name: str, settings: StageSettings, **inputs: str) -> str:
        """Run a stage unless its manifest stands; the artifact's URL."""
        url = artifact_url(settings, input_digests(inputs), self.root)
        self._calls[url] = (name, settings, inputs)
        if not Folder.at(url).exists(NAME):
            self._make(url)
        return url

    def _make(self, url: str) -> None:
        name, settings, inputs = self._calls[url]
        for missing in [given for given in inputs.values() if given in self._calls and not _is_whole(given)]:
            self._make_anew(missing)
        self._say(f"{name} -> {url}")
        stage: Any = getattr(stages, name)
        stage(settings, inputs, self.root, self._events)

    def _make_anew(self, url: str) -> None:
        """Of an artifact the manifest alone is left."""
        expected = Artifact.open(url).manifest.content_digest
        Folder.at(url).remove(NAME)
        self._make(url)
        if (found := Artifact.open(url).manifest.content_digest) != expected:
            raise CorruptArtifactError(
                f"{url}: made anew it has digest {found}, was {expected} before; begin with an empty root, "
                "or go on with the libraries and the device that made it"
            )


def _check(config: NoisyStudentConfig) -> None:
    """What these recipes do not need is refused."""
    unknown = {
        "selector": config.selector != "teacher",
        "selection.materialise": config.selection.materialise,
        "teacher.checkpoint": config.teacher.checkpoint is not None,
        "iterations.*.finetune": any(student.finetune for student in config.iterations),
        "fix_resolution": any(learner.fix_resolution for learner in (config.teacher, *config.iterations)),
        "weights": any(fit.model.weights is not None for fit in config.fits()),
    }
    if found := [name for name, is_set in unknown.items() if is_set]:
        raise ConfigurationError(f"{found[0]} is set: of the flow alone; use `noisy-student run`")


def _is_whole(url: str) -> bool:
    try:
        Artifact.open(url).check_sizes()
    except CorruptArtifactError:
        return False
    return True
