"""Starts the real `abide` on folders of its own, for tests with real clients.

Nothing here knows how Abide works inside: only its command line and S3.
"""

import json
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ABIDE = os.environ.get("ABIDE", str(ROOT / "target" / "release" / "abide"))


def seed():
    """The run's seed: from TEST_SEED, or fresh; printed so that the run can be had again."""
    value = int(os.environ.get("TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {value} (again: TEST_SEED={value} python3 {shlex.join(sys.argv)})", flush=True)
    return value


# Below those that systems give to connections: between the look and the start one of these could take it.
PORTS = range(12_000, 32_000)
given = set()


def free_port():
    """A port that nobody listens on, another one each time."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in given:
            given.add(port)
            return port


def wait_for(what, condition, seconds=60):
    """Waits until `condition()` is true; its last value is given back."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s in vain: {what}")
        time.sleep(0.05)


class Store:
    """One running `abide up` on `drives` folders. `within` goes before the command that starts it."""

    def __init__(self, drives=6, options=(), base=None, environment=None):
        self.base = Path(base or tempfile.mkdtemp(prefix="abide-test-"))
        self.home = self.base / "home"
        self.drives = [self.base / f"d{n}" for n in range(1, drives + 1)]
        self.host, self.port = "127.0.0.1", free_port()
        self.within = []
        self.options = list(options)
        self.extra = dict(environment or {})
        self.process = None
        self.log = self.base / "log"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None and self.log.exists():
            print("--- the end of the store's log:", file=sys.stderr)
            print("\n".join(self.log.read_text(errors="replace").splitlines()[-40:]), file=sys.stderr)
        self.kill()
        shutil.rmtree(self.base, ignore_errors=True)

    @property
    def environment(self):
        return {**os.environ, "ABIDE_HOME": str(self.home), **self.extra}

    @property
    def endpoint(self):
        return f"http://{self.host}:{self.port}"

    def up_command(self, drives=None):
        return [
            *self.within, ABIDE, "up", *map(str, drives or self.drives),
            "--listen", f"{self.host}:{self.port}", *self.options,
        ]

    def start(self, drives=None, seconds=60):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.up_command(drives), stdout=log, stderr=subprocess.STDOUT, env=self.environment, cwd=self.base
            )

        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"abide up ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}")
            try:
                return self.status()
            except (subprocess.CalledProcessError, json.JSONDecodeError):
                return None

        return wait_for("abide up is ready", ready, seconds)

    def stop(self):
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=60)
        assert code == 0, f"abide up ended with {code} after Ctrl-C"

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def run(self, *words, check=True, timeout=600, **more):
        """Runs the command line; gives the finished process."""
        done = subprocess.run(
            [ABIDE, *map(str, words)], env=self.environment, capture_output=True, text=True, timeout=timeout, **more
        )
        if check and done.returncode != 0:
            print(f"abide {' '.join(map(str, words))}: {done.returncode}\n{done.stdout}\n{done.stderr}", file=sys.stderr)
            done.check_returncode()
        return done

    def json(self, *words, **more):
        return json.loads(self.run(*words, "--json", **more).stdout)

    def status(self):
        return self.json("status")

    def aws(self):
        """What `eval "$(abide env)"` would set."""
        lines = self.run("env").stdout.splitlines()
        pairs = [line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export ")]
        return {name: value.strip("'\"") for name, value in pairs}

    def client_environment(self):
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith("AWS_")},
            **self.aws(),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def boto3(self, **config):
        return s3_client(self.aws(), **config)


def s3_client(aws, **config):
    """boto3 with its standard retries, for what `abide env` sets."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3", endpoint_url=aws["AWS_ENDPOINT_URL"], region_name=aws["AWS_REGION"],
        aws_access_key_id=aws["AWS_ACCESS_KEY_ID"], aws_secret_access_key=aws["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"max_attempts": 3, "mode": "standard"}, **config),
    )


def body(client, bucket, key, tries=5):
    """An object's bytes. A body that breaks off is asked for again, as the SDK's own downloads do."""
    from s3transfer.utils import S3_RETRYABLE_DOWNLOAD_ERRORS

    while True:
        try:
            return client.get_object(Bucket=bucket, Key=key)["Body"].read()
        except S3_RETRYABLE_DOWNLOAD_ERRORS:
            tries -= 1
            if tries == 0:
                raise


def contents(name, size, seed_value):
    """Bytes that only this name, size and seed have; quick to make."""
    return random.Random(f"{seed_value}/{name}/{size}").randbytes(size)
