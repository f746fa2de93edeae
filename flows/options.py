"""Options that several commands have."""

from typing import Annotated

import typer

from noisystudent_core.recipes import RECIPES


def recipe_names() -> list[str]:
    """What a shell may complete a recipe's name to."""
    return list(RECIPES)


RecipeName = Annotated[
    str, typer.Option(help="A recipe; `noisy-student recipes` lists them.", autocompletion=recipe_names)
]
