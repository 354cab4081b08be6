"""Copies a log to a bucket with Object Lock, and checks the copy as an auditor would.

The S3 service is moto, on loopback: it takes conditional writes and keeps versions and locks. It is no proof of
what AWS does. Started by `run`.
"""

import argparse
import base64
import contextlib
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import boto3
from botocore.exceptions import ClientError
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

ROOT = Path(__file__).resolve().parents[2]
BUCKET, PREFIX = "acme-audit-log", "prod"
PATIENCE = 60


def until(what, holds, says=lambda: ""):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if found := holds():
                return found
        time.sleep(0.1)
    raise SystemExit(f"error: {what} did not happen within {PATIENCE} s {says()}")


@contextlib.contextmanager
def process(*command, **options):
    child = subprocess.Popen(command, **options)
    try:
        yield child
    finally:
        child.terminate()
        child.wait(30)


class Service:
    """S3, with the checksums of what was written."""

    def __init__(self):
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.checksums = {}
        self.server = make_server("127.0.0.1", 0, self.answer, threaded=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, environ, start_response):
        if checksum := environ.get("HTTP_X_AMZ_CHECKSUM_SHA256"):
            self.checksums[environ["PATH_INFO"]] = checksum
            # AWS takes the checksum itself for an upload to a locked bucket; moto looks for the name that
            # AWS's libraries send along, or for MD5.
            environ["HTTP_X_AMZ_SDK_CHECKSUM_ALGORITHM"] = "SHA256"
        return self.moto(environ, start_response)


class World:
    """An installation, a service, and a bucket with a lock."""

    def __init__(self, program, folder):
        self.service = Service()
        endpoint = self.service.url
        self.program, self.folder, self.root = program, folder, folder / "project"
        # Credentials that belong to nobody: nothing else is asked for any.
        self.env = dict(
            os.environ, AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret", AWS_REGION="eu-central-1"
        )
        self.s3 = boto3.client(
            "s3", endpoint_url=endpoint, region_name="eu-central-1",
            aws_access_key_id="key", aws_secret_access_key="secret",
        )
        self.s3.create_bucket(
            Bucket=BUCKET, ObjectLockEnabledForBucket=True,
            CreateBucketConfiguration={"LocationConstraint": "eu-central-1"},
        )
        self.s3.put_object_lock_configuration(
            Bucket=BUCKET,
            ObjectLockConfiguration={
                "ObjectLockEnabled": "Enabled",
                "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 550}},
            },
        )
        self.root.mkdir()
        self.run("init")
        (self.root / "countersign.toml").write_text(
            '[data_plane]\nlisten = "127.0.0.1:0"\n[control_plane]\nlisten = "127.0.0.1:0"\n'
            f'[anchors.object_store]\nurl = "s3://{BUCKET}/{PREFIX}"\nendpoint = "{endpoint}"\n'
            'interval = "1s"\n'
        )

    def run(self, *args, fails=False):
        done = subprocess.run(
            [self.program, "--dir", self.root, *args], env=self.env, capture_output=True, text=True
        )
        if (done.returncode != 0) != fails:
            raise SystemExit(f"error: {args}: {done.stdout}{done.stderr}")
        return done.stdout

    def serve(self):
        return process(
            self.program, "--dir", self.root, "serve", env=self.env, stderr=subprocess.DEVNULL
        )

    def status(self):
        text = (self.root / "countersign-data" / "anchors.json").read_text()
        return json.loads(text)["object_store"]

    def copied_above(self, size):
        return until(
            f"a copy of more than {size} records",
            lambda: (status := self.status())["size"] > size and not status["error"] and status["size"],
            self.status,
        )

    def add_records(self, name):
        serves = self.root / "countersign-data" / "serve.json"
        until("the start of the gateway", serves.exists)
        self.run("agents", "add", "--name", name, "--purpose", "e2e", "--owner", "dana", "--role", "r",
                 "--environment", "prod")

    def keys(self):
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{PREFIX}/")
        return [one["Key"] for page in pages for one in page.get("Contents", [])]

    def download(self, to):
        for key in self.keys():
            path = to / key.removeprefix(f"{PREFIX}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            self.s3.download_file(BUCKET, key, str(path))


def refused(what, call):
    try:
        call()
    except ClientError as error:
        print(f"refused, {what}: {error.response['Error']['Code']}")
        return
    raise SystemExit(f"error: the bucket lets through {what}")


def check(world):
    vkey = world.folder / "log.vkey"
    vkey.write_text(world.run("log", "vkey"))
    size = 0
    # The second gateway takes up what the first one left.
    for run in range(2):
        with world.serve():
            for step in range(3):
                world.add_records(f"agent-{run}-{step}")
                size = world.copied_above(size)
        copy = world.folder / f"copy-{run}"
        world.download(copy)
        said = world.run("verify", "--log", copy, "--vkey", vkey)
        world.run("verify", "--checkpoint", copy / "checkpoint")
        print(f"copy of {size} records, {len(world.keys())} objects: {said.splitlines()[-1]}")

    # What was sent carries the checksum, is under the lock, and was written once.
    for key in world.keys():
        head = world.s3.head_object(Bucket=BUCKET, Key=key)
        body = world.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        expected = base64.b64encode(hashlib.sha256(body).digest()).decode()
        assert world.service.checksums[f"/{BUCKET}/{key}"] == expected, key
        assert head["ObjectLockMode"] == "COMPLIANCE", key
        versions = world.s3.list_object_versions(Bucket=BUCKET, Prefix=key)["Versions"]
        versions = [one for one in versions if one["Key"] == key]
        assert len(versions) == 1 or key == f"{PREFIX}/checkpoint", (key, len(versions))
    print(f"{len(world.keys())} objects are locked, and all but `checkpoint` have one version")
    bundle = next(key for key in world.keys() if "/entries/" in key)
    version = world.s3.head_object(Bucket=BUCKET, Key=bundle)["VersionId"]
    refused("deleting a version", lambda: world.s3.delete_object(
        Bucket=BUCKET, Key=bundle, VersionId=version))
    refused("writing over an object as we write", lambda: world.s3.put_object(
        Bucket=BUCKET, Key=bundle, Body=b"x", IfNoneMatch="*"))

    # Somebody with the bucket's credentials puts another version on top: the gateway notices.
    world.s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}/checkpoint", Body=b"altered")
    with world.serve():
        until("an error about the altered checkpoint",
              lambda: "is no checkpoint of this log" in world.status()["error"])
    print("an altered checkpoint is noticed, and not written over")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--countersign", default=ROOT / "target/debug/countersign", type=Path)
    program = parser.parse_args().countersign.resolve()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        check(World(program, Path(folder)))
    print("OK")


if __name__ == "__main__":
    sys.exit(main())
