"""`python -m deployments.buckets NAME ...`: have these buckets at AWS_ENDPOINT_URL; those that are there stay."""

import sys

import boto3


def ensure(names: list[str]) -> None:
    """Create the buckets that are missing. Raises botocore's error where the store refuses."""
    client = boto3.client("s3")
    there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for name in names:
        if name not in there:
            client.create_bucket(Bucket=name)


if __name__ == "__main__":
    ensure(sys.argv[1:])
