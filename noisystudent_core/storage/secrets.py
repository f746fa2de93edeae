"""Addresses that hold credentials: they would stand in logs, parameters and manifests, so that none is taken."""

import re
from collections.abc import Mapping
from typing import Any

from noisystudent_core.errors import ConfigurationError

# of signed addresses; spelled out in both cases, as a browser that checks a form knows no flags within a pattern
SIGNED = "[?&]([Xx]-[Aa][Mm][Zz]-|[Xx]-[Gg]oog-|AWSAccessKeyId=|[Ss]ig(nature)?=|[Aa]ccess_?[Tt]oken=|[Tt]oken=)"
USER = "://[^/\\s]*@"
SLASHED = "://[^/\\s]*:[^/\\s]*[^0-9/\\s][^/\\s]*/\\S*@"  # a secret may hold a slash; a port is digits alone
WITHOUT_SECRETS = f"^(?![\\s\\S]*({USER}|{SLASHED}|{SIGNED}))"  # as JSON schemas take it

REMEDY = "an address without credentials; give them by environment or profile (AWS_ACCESS_KEY_ID, ...)"

_CREDENTIALS = re.compile(f"{USER}|{SLASHED}")
_SIGNED = re.compile(SIGNED)


def refuse_secrets(url: str) -> None:
    """Raise `ConfigurationError` where an address, or one of several, holds credentials; they are not repeated."""
    if _CREDENTIALS.search(url):
        raise ConfigurationError(
            "a URL holds credentials: give them by environment or profile (AWS_ACCESS_KEY_ID, ...)"
        )
    if _SIGNED.search(url):
        raise ConfigurationError(
            "a URL holds a signature or token: give the plain address, as s3://bucket/folder, and credentials by "
            "environment or profile (AWS_ACCESS_KEY_ID, ...)"
        )


def without_secrets(text: str) -> str:
    """The text less the user names and passwords in its addresses."""
    return re.sub(r"//[^/@\s]+@", "//", text)


def refuse_any_secrets(value: Any) -> None:
    """`refuse_secrets` for every text in nested mappings and lists, their keys included."""
    if isinstance(value, str):
        refuse_secrets(value)
    elif isinstance(value, Mapping):
        refuse_any_secrets([*value, *value.values()])
    elif isinstance(value, list | tuple | set):
        for each in value:
            refuse_any_secrets(each)
