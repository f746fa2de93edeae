"""Types of flow parameters: what the UI's form offers and what a server refuses before a run of a deployment starts.

The limits stand in the JSON schema alone. In a process of its own a run is told by our errors, with value and remedy.
"""

from typing import Annotated, Any

from pydantic import Field

from noisystudent_core.config.model_evaluation import SUITES
from noisystudent_core.recipes import RECIPES
from noisystudent_core.recipes.studies import STUDIES
from noisystudent_core.storage.secrets import REMEDY, WITHOUT_SECRETS
from tasks.engines import ENGINES


def _shown(**schema: Any) -> Any:
    return Field(json_schema_extra=schema)


# of texts: refused by what is expected, for the other keywords' messages repeat the value, a secret with it
PLAIN: dict[str, Any] = {"if": {"pattern": WITHOUT_SECRETS}, "else": {"type": "string", "const": REMEDY}}

Recipe = Annotated[str, _shown(enum=list(RECIPES))]
Study = Annotated[str, _shown(enum=list(STUDIES))]
EngineName = Annotated[str, _shown(enum=list(ENGINES))]
Suite = Annotated[str, _shown(enum=list(SUITES))]
Url = Annotated[str, _shown(**PLAIN)]
AtLeastOne = Annotated[int, _shown(minimum=1)]
Ratio = Annotated[float, _shown(minimum=1)]
Threshold = Annotated[float, _shown(minimum=0, exclusiveMaximum=1)]
Shrink = Annotated[float, _shown(exclusiveMinimum=0, maximum=1)]
Overrides = Annotated[dict[str, Any], _shown(additionalProperties=PLAIN)]
