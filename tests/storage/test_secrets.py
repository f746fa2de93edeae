"""Addresses that hold credentials are refused, in the code and by the pattern of forms alike, and never repeated."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisystudent_core.errors import ConfigurationError
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.secrets import WITHOUT_SECRETS, refuse_any_secrets, refuse_secrets, without_secrets
from noisystudent_core.storage.sources import list_source

WORDS = st.text("abcXYZ019+", min_size=1)


def refused(url: str) -> bool:
    try:
        refuse_secrets(url)
    except ConfigurationError as error:
        assert "environment or profile" in str(error)
        assert url not in str(error)
        return True
    return False


@pytest.mark.parametrize(
    "url",
    [
        "s3://KEY:SECRET@bucket/folder",
        "s3://KEY:SEC/RET@bucket",
        "s3://KEY@bucket",
        "https://user:password@host/a.parquet",
        "https://host/a.parquet?X-Amz-Signature=1&b=2",
        "https://host/a.parquet?b=2&x-amz-credential=1",
        "https://host/a.parquet?AWSAccessKeyId=KEY&Expires=1",
        "https://host/a.parquet?sig=1",
    ],
)
def test_secrets_are_refused_wherever_an_address_is_opened(url: str) -> None:
    assert refused(url)
    assert not re.search(WITHOUT_SECRETS, url)
    for opening in (Folder.at, list_source):
        with pytest.raises(ConfigurationError) as error:
            opening(url)
        assert "SECRET" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "/folder/a@b",
        "s3://bucket/a@b?.parquet",
        "http://host:8080/a@b",
        "torchvision:ImageNet?root=/x&split=train",
        "timm:tf_efficientnet_b0.ns_jft_in1k",
        "memory://x",
        "s3://bucket/{000..127}.tar",
    ],
)
def test_plain_addresses_are_not(url: str) -> None:
    assert not refused(url)
    assert re.search(WITHOUT_SECRETS, url)


def test_each_of_several_addresses_is_looked_at() -> None:
    assert refused("/plain\ns3://KEY:SECRET@bucket")


@given(st.sampled_from(["s3", "https", "gs"]), WORDS, WORDS, WORDS)
def test_a_user_and_a_secret_are_always_found(protocol: str, user: str, secret: str, host: str) -> None:
    assert refused(f"{protocol}://{user}:{secret}@{host}/x")


@given(st.text())
def test_form_and_code_agree(text: str) -> None:
    assert refused(text) is not bool(re.search(WITHOUT_SECRETS, text))


def test_secrets_are_removed_from_addresses() -> None:
    assert without_secrets("at postgresql://me:pw@host/db") == "at postgresql://host/db"
    assert without_secrets("file:///home/a@b") == "file:///home/a@b"


def test_nested_settings_are_looked_through() -> None:
    with pytest.raises(ConfigurationError, match="credentials"):
        refuse_any_secrets({"sources": {"test": None}, "suites": [{"frost": ("s3://K:S@b", 1)}]})
    refuse_any_secrets({"sources": {"test": "s3://b"}, "seed": 1, "names": ["a", None]})
