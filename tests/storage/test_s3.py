"""What only a bucket can do wrong, against a server of the S3 protocol."""

from collections.abc import Callable, Iterator, Mapping

import fsspec
import pytest
from s3fs import S3FileSystem

from noisystudent_core import stages
from noisystudent_core.config import SPLITS, ExclusionsConfig, IngestConfig, PrepareConfig
from noisystudent_core.errors import RootError, SourceError
from noisystudent_core.storage.filesystem import Folder, check_writable
from noisystudent_core.storage.manifest import artifact_url, input_digests
from noisystudent_core.storage.sources import list_source
from noisystudent_core.storage.verify import artifact_urls, problems

BUCKET = "noisy-student"


@pytest.fixture
def no_credentials(s3_environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    S3FileSystem.clear_instance_cache()  # an open file system keeps the credentials it began with
    yield
    S3FileSystem.clear_instance_cache()


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


def test_missing_bucket_is_named(s3_environment: Mapping[str, str]) -> None:
    with pytest.raises(RootError, match=r"s3://no-such-bucket/root: cannot be written .*does not exist"):
        check_writable("s3://no-such-bucket/root")
    with pytest.raises(SourceError, match=r"s3://no-such-bucket/a\.parquet"):
        list_source("s3://no-such-bucket/a.parquet")


def test_missing_credentials_are_a_root_error(no_credentials: None) -> None:
    with pytest.raises(RootError, match=f"s3://{BUCKET}/root: cannot be reached .*check address and credentials"):
        check_writable(f"s3://{BUCKET}/root")


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
