"""An S3 server on this machine that lets nobody in without a key: Moto's, as a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx

from tests.stack import clean_environment, free_port, process, until

BUCKET = "videos"

_REGION = "eu-central-1"

_MAY_ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}


@dataclass(frozen=True)
class S3:
    """A server with one bucket, and a client of it that is not ours."""

    url: str
    key: str
    secret: str
    client: Any

    def options(self, **changes: str) -> dict[str, str]:
        """The archive's options, as people set them."""
        return {
            "aws_endpoint": self.url,
            "aws_region": _REGION,
            "aws_access_key_id": self.key,
            "aws_secret_access_key": self.secret,
            **changes,
        }

    def objects(self) -> dict[str, int]:
        """What readers see, with the lengths in bytes."""
        return {found["Key"]: found["Size"] for found in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])}

    def read(self, key: str) -> bytes:
        return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def uploads(self) -> list[str]:
        """Uploads in parts that have not ended; no reader sees any of it."""
        return [found["Key"] for found in self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])]

    def empty(self) -> None:
        for key in self.objects():
            self.client.delete_object(Bucket=BUCKET, Key=key)
        for found in self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []):
            self.client.abort_multipart_upload(Bucket=BUCKET, Key=found["Key"], UploadId=found["UploadId"])


@contextmanager
def s3_server(folder: Path) -> Iterator[S3]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = (sys.executable, "-m", "moto.server", "--port", str(port))
    with process(*command, environment=clean_environment(), log=folder / "moto.log") as child:

        def answers() -> bool:
            assert child.poll() is None, (folder / "moto.log").read_text()
            try:
                return httpx.get(f"{url}/moto-api/data.json", timeout=5).is_success
            except httpx.TransportError:
                return False

        until(answers, "the S3 server answers")
        # Until it is told otherwise it takes any key.
        anybody = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
        iam = _client("iam", url, **anybody)
        iam.create_user(UserName="archive")
        iam.put_user_policy(UserName="archive", PolicyName="all", PolicyDocument=json.dumps(_MAY_ALL))
        key = iam.create_access_key(UserName="archive")["AccessKey"]
        httpx.post(f"{url}/moto-api/reset-auth", content=b"0").raise_for_status()
        keys = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
        client = _client("s3", url, **keys)
        client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": _REGION})
        try:
            yield S3(url, key["AccessKeyId"], key["SecretAccessKey"], client)
        finally:
            client.close()
            iam.close()


def _client(service: str, url: str, **keys: str) -> Any:
    return boto3.client(service, endpoint_url=url, region_name=_REGION, **keys)
