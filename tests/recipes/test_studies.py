"""Every study is a grid of valid configurations that differ in what it is about, and in nothing else."""

import pytest

from noisystudent_core.config import apply_overrides
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.recipes import configure
from noisystudent_core.recipes.studies import STUDIES, variants_of

NETS = ("cifar_resnet20", "cifar_resnet26")
RECIPES = ("digits", "cifar10", "imagenet_b0")
DIGITS = configure("digits", num_iterations=1)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", STUDIES)
def test_every_variant_is_a_valid_configuration_of_its_own(name: str, recipe: str) -> None:
    config = configure(recipe, num_iterations=1)
    variants = variants_of(name, config, NETS)
    made = {variant: apply_overrides(config, settings) for variant, settings in variants.items()}
    assert len(made) >= 2
    assert len({one.model_dump_json() for one in made.values()}) == len(made)
    assert STUDIES[name].reference in {"", *made}


def test_table_6_takes_noise_from_unlabelled_images_alone() -> None:
    variants = variants_of("table6", DIGITS, [])
    quiet = apply_overrides(DIGITS, variants["student without augmentation"]).iterations[0]
    assert quiet.noise == DIGITS.iterations[0].noise
    assert quiet.pseudo_labels.noise is not None
    assert quiet.pseudo_labels.noise.num_ops == 0
    assert not quiet.pseudo_labels.noise.flip
    silent = apply_overrides(DIGITS, variants["student without any noise"]).iterations[0]
    assert not silent.pseudo_labels.model_noise
    assert apply_overrides(DIGITS, variants["noised teacher"]).noised_teacher


def test_the_teacher_is_the_same_where_the_study_is_not_about_it() -> None:
    for name in ("table6", "amounts", "labels", "joint", "ratios", "starts"):
        variants = variants_of(name, DIGITS, NETS).values()
        assert all(apply_overrides(DIGITS, settings).fit_teacher() == DIGITS.fit_teacher() for settings in variants)


def test_amounts_go_down_to_an_eighth_of_a_sixteenth() -> None:
    variants = variants_of("amounts", DIGITS, [])
    assert variants["1/128 at random"] == {"selection.fraction": 1 / 128}
    assert len(variants) == 15


def test_wrong_studies_are_named() -> None:
    with pytest.raises(ConfigurationError, match="study 'table7': must be one of table6, figure2, teachers"):
        variants_of("table7", DIGITS, [])
    with pytest.raises(ConfigurationError, match="study 'students' compares at least 2 nets; name them"):
        variants_of("students", DIGITS, ["cifar_resnet20"])
