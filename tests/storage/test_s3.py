"""What only a bucket can do wrong, against a server of the S3 protocol."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fsspec
import pytest
from botocore.exceptions import ClientError
from s3fs import S3FileSystem

from noisystudent_core import stages
from noisystudent_core.config import SPLITS, ExclusionsConfig, IngestConfig, PrepareConfig
from noisystudent_core.errors import AccessError, SourceError, UnavailableError
from noisystudent_core.storage import retries
from noisystudent_core.storage.filesystem import Folder, check_writable
from noisystudent_core.storage.manifest import artifact_url, input_digests
from noisystudent_core.storage.s3 import S3
from noisystudent_core.storage.s3_errors import attempts_for, plain
from noisystudent_core.storage.sources import list_source
from noisystudent_core.storage.verify import artifact_urls, problems

BUCKET = "noisy-student"


@pytest.fixture
def new_client(s3_environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is opened is opened anew: an open file system keeps the address and credentials that it began with."""
    monkeypatch.setattr(S3, "_cache", {})
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.01)


@pytest.fixture
def no_credentials(new_client: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")


def test_server_is_found_by_environment(s3_environment: Mapping[str, str]) -> None:
    assert s3_environment["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")
    assert isinstance(Folder.at(f"s3://{BUCKET}").fs, S3FileSystem)
    assert fsspec.filesystem("s3").exists(BUCKET)


def test_put_is_conditional_where_listings_lag(s3_root: str) -> None:
    one, other = Folder.at(s3_root), Folder(S3FileSystem(skip_instance_cache=True), Folder.at(s3_root).path)
    assert not other.exists("part")
    one.publish("part", b"first")
    assert other.publish("part", b"second") is False
    assert other.read("part") == b"first"


def test_address_and_credentials_may_come_from_a_profile(
    s3_root: str, no_credentials: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    (tmp_path / "config").write_text(f"[profile lab]\nregion = us-east-1\nendpoint_url = {address}\n")
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = test\naws_secret_access_key = test\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert Folder.at(s3_root).publish("part", b"data") is True


def test_address_of_s3_alone_goes_before_that_of_all_services(
    s3_root: str, new_client: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", os.environ["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://nowhere.invalid")
    assert Folder.at(s3_root).publish("part", b"data") is True


def test_missing_bucket_is_named(s3_environment: Mapping[str, str]) -> None:
    with pytest.raises(AccessError, match=r"s3://no-such-bucket/root.*: no such bucket .*does not exist.*; create it"):
        check_writable("s3://no-such-bucket/root")
    with pytest.raises(AccessError, match=r"s3://no-such-bucket/root.*: no such bucket"):
        Folder.at("s3://no-such-bucket/root").sizes()
    for source in ("a.parquet", "*.parquet", "folder"):
        with pytest.raises(SourceError, match=f"s3://no-such-bucket/{re.escape(source)}: .*no such bucket"):
            list_source(f"s3://no-such-bucket/{source}")


def test_missing_credentials_are_named(no_credentials: None) -> None:
    with pytest.raises(AccessError, match=f"s3://{BUCKET}/root.*: no credentials .*; set AWS_ACCESS_KEY_ID and"):
        check_writable(f"s3://{BUCKET}/root")


def test_unknown_profile_is_named(new_client: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(AccessError, match=f"s3://{BUCKET}/root.*: no credentials .*nobody.*; set AWS_ACCESS_KEY_ID"):
        check_writable(f"s3://{BUCKET}/root")


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("http://nowhere.invalid", AccessError, "unknown host .*nowhere.invalid.*; correct AWS_ENDPOINT_URL"),
        ("nowhere", AccessError, "cannot be asked for .*nowhere.*; check address and settings"),
        (
            "http://127.0.0.1:1",
            UnavailableError,
            "3 attempts failed, .*127.0.0.1:1.*; correct AWS_ENDPOINT_URL, or try",
        ),
    ],
)
def test_wrong_address_is_soon_named(
    new_client: None, monkeypatch: pytest.MonkeyPatch, address: str, error: type[Exception], words: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    with pytest.raises(error, match=f"s3://{BUCKET}/root.*: {words}"):
        check_writable(f"s3://{BUCKET}/root")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "AccessDenied", "refused .*; check credentials and their rights on the bucket"),
        (403, "InvalidAccessKeyId", "credentials refused .*; renew them, or choose others"),
        (400, "ExpiredToken", "credentials refused .*; renew them, or choose others"),
        (301, "PermanentRedirect", "the bucket is in another region .*; set AWS_DEFAULT_REGION"),
        (501, "NotImplemented", "the server lacks what is asked .*; it must know conditional puts"),
    ],
)
def test_what_a_bucket_refuses_is_told_in_plain_words(status: int, code: str, words: str) -> None:
    response: Any = {"Error": {"Code": code, "Message": "No."}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = ClientError(response, "PutObject")
    assert attempts_for(error, has_answered=True) == 1
    assert re.fullmatch(rf"s3://bucket/part: {words}.*", str(plain(error, "s3://bucket/part", 1)))


def test_whole_preparation_gives_the_digests_of_a_disk(
    root: str, s3_root: str, write_sources: Callable[[str], dict[str, str]]
) -> None:
    on_disk, in_bucket = prepared(root, write_sources(root)), prepared(s3_root, write_sources(s3_root))
    assert on_disk == in_bucket
    assert len(set(on_disk.values())) == len(SPLITS) + 1
    assert [list(problems(url)) for url in artifact_urls(s3_root)] == [[]] * 9  # and four of ingested files


def prepared(root: str, sources: dict[str, str]) -> dict[str, str]:
    """Content digest of every artifact up to the exclusions, made twice: the second time each is reused."""
    urls, digests = {}, {}
    for split in SPLITS:
        classes = None if split == "unlabelled" else 3
        config = PrepareConfig(ingest=IngestConfig(num_classes=classes, images_per_part=4))
        source = {"source": sources[split]}
        digests[split] = stages.prepare(config, source, root).content_digest
        assert stages.prepare(config, source, root).content_digest == digests[split]
        urls[split] = artifact_url(config, input_digests(source), root)
    inputs = {split: urls[split] for split in ("unlabelled", "validation", "test")}
    digests["exclusions"] = stages.exclusions(ExclusionsConfig(), inputs, root).content_digest
    return digests
