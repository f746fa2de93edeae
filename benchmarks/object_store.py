"""The digits run on an s3:// root, on a local S3 protocol server: the same content digests as on disk.

And once more through a proxy that answers 5% of the requests with 503, cuts 2% of the answers off in the middle, and
forgets to answer 1% after they were carried out.

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
from tests.storage.faulty_s3 import FaultyS3

BUCKET = "noisy-student"
RATES = {"503": 0.05, "cut": 0.02, "lost": 0.01}


def main(shrink: float, seed: int) -> None:
    """Print times, requests, faults and the number of artifacts; exit status 1 where they differ."""
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
    with tempfile.TemporaryDirectory() as scratch, FaultyS3(os.environ["AWS_ENDPOINT_URL"], seed=seed) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.url
        on_disk = run(str(Path(scratch) / "root"), shrink)
        found = [on_disk]
        for name, rates in {"root": {}, "disturbed": RATES}.items():
            proxy.forget()
            proxy.rates = rates
            found.append(run(f"s3://{BUCKET}/{name}", shrink))
            print(f"  requests {dict(proxy.requests)}, faults {dict(proxy.faults)}")
    server.stop()
    same = all(each == on_disk for each in found)
    print(" and ".join(f"{len(each)}" for each in found), "artifacts,", "all the same" if same else "DIFFERENT")
    sys.exit(not same)


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
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    main(**vars(parser.parse_args()))
