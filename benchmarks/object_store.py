"""The digits run on an s3:// root, on a local S3 protocol server: the same content digests as on disk.

python -m benchmarks.object_store --shrink 0.1
"""

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

from noisystudent_core.storage.manifest import Artifact
from noisystudent_core.storage.verify import artifact_urls

BUCKET = "noisy-student"


def main(shrink: float) -> None:
    """Print both times and the number of artifacts; exit status 1 where they differ."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request otherwise
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    with tempfile.TemporaryDirectory() as scratch:
        on_disk = run(str(Path(scratch) / "root"), shrink)
        on_s3 = run(f"s3://{BUCKET}/root", shrink)
    server.stop()
    print(f"{len(on_disk)} artifacts on disk, {len(on_s3)} on s3, {'the same' if on_disk == on_s3 else 'DIFFERENT'}")
    sys.exit(on_disk != on_s3)


def run(root: str, shrink: float) -> dict[str, str]:
    """Run the digits recipe; the content digest of every artifact, by kind and key."""
    started = time.monotonic()
    command = [sys.executable, "-m", "flows", "run", "--root", root, "--shrink", str(shrink)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(f"{root}: {time.monotonic() - started:.0f} s", flush=True)
    manifests = [Artifact.open(url).manifest for url in artifact_urls(root)]
    return {f"{manifest.kind}/{manifest.key}": manifest.content_digest for manifest in manifests}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shrink", type=float, default=0.1)
    main(**vars(parser.parse_args()))
