"""The command line, as a person uses it: first start, refusals, drives, keys, Ctrl-C, reopening."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.store import ABIDE, Store, contents, wait_for  # noqa: E402

from botocore.exceptions import ClientError  # noqa: E402


def ok(what):
    print(f"ok  {what}", flush=True)


def up_fails(store, drives, *options, home=None):
    """`abide up` that must refuse; gives what it said."""
    environment = {**store.environment, "ABIDE_HOME": str(home or store.base / "other-home")}
    done = subprocess.run(
        [ABIDE, "up", *map(str, drives), "--listen", "127.0.0.1:0", *map(str, options)],
        env=environment, capture_output=True, text=True, timeout=60, cwd=store.base,
    )
    assert done.returncode not in (0, 101), f"up went on, or panicked:\n{done.stdout}\n{done.stderr}"
    return done.stderr


def first_start(store):
    text = store.log.read_text()
    words = next(line.split() for line in text.splitlines() if len(line.split()) == 24)
    assert len(words) == 24
    keys = list(store.home.glob("*.key"))
    assert len(keys) == 1, f"key files: {keys}"
    assert stat.S_IMODE(keys[0].stat().st_mode) == 0o600, "the key file is open to others"
    assert stat.S_IMODE((store.home / "control.sock").stat().st_mode) == 0o600
    aws = store.aws()
    assert set(aws) == {"AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"}, aws
    assert aws["AWS_ENDPOINT_URL"] == store.endpoint
    secret = aws["AWS_SECRET_ACCESS_KEY"]
    ok("the first start shows 24 words, keeps the key to its owner, and env has what clients need")
    return words, keys[0], secret


def plaintext_is_nowhere(store, *needles):
    for drive in store.drives:
        for path in drive.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                for needle in needles:
                    assert needle not in data, f"{needle!r} lies open in {path}"
    ok("no name, content or secret lies open on any drive")


def refusals(store, key):
    said = up_fails(store, store.drives, "--key-file", key)
    assert "lock" in said or "another" in said or "in use" in said, said
    ok("two processes on one store")
    other = store.base / "other"
    (other / "d1").mkdir(parents=True)
    (other / "d1" / "holiday.txt").write_text("mine")
    said = up_fails(store, [other / "d1"])
    assert "empty" in said and (other / "d1" / "holiday.txt").read_text() == "mine", said
    assert sorted(p.name for p in (other / "d1").iterdir()) == ["holiday.txt"]
    ok("a folder with other files is refused and not touched")


def wrong_keys(store, key):
    other = store.base / "wrong.key"
    with Store(drives=1) as second:
        shutil.copy(next(second.home.glob("*.key")), other)
        second.stop()
        said = up_fails(store, [*store.drives[:3], second.drives[0]], "--key-file", key)
        assert "store" in said or "cluster" in said, said
        ok("folders of two stores are refused")
    said = up_fails(store, store.drives, "--key-file", other)
    assert "key" in said, said
    ok("the key file of another store is refused")
    os.chmod(other, 0o644)
    said = up_fails(store, store.drives, "--key-file", other)
    assert "chmod" in said or "mode" in said, said
    ok("a key file that others can read is refused")
    torn = store.base / "torn"
    torn.mkdir()
    (torn / "abide-drive").write_bytes(os.urandom(100))
    said = up_fails(store, [torn], "--key-file", key)
    assert "abide-drive" in said or "identity" in said, said
    ok("a torn drive identity is refused with its reason")


def drives(store, client):
    listed = store.json("drive", "list")
    assert [drive["state"] for drive in listed] == ["up"] * 6, listed
    refused = store.run("drive", "remove", store.drives[0], "--apply", check=False)
    assert refused.returncode != 0 and "piece" in refused.stderr, refused.stderr + refused.stdout
    ok("removing a drive that is needed is refused with the outcome")
    store.run("drive", "add", store.base / "d7")
    again = store.run("drive", "add", store.base / "d7", check=False)
    assert again.returncode != 0, "one folder was added twice"
    shown = store.run("drive", "drain", store.drives[2])
    assert store.json("drive", "list")[2]["state"] == "up", "a plan without --apply did something"
    store.run("drive", "drain", store.drives[2], "--apply")
    wait_for("the drive is empty", lambda: store.run("drive", "remove", store.drives[2], "--apply", check=False).returncode == 0, 300)
    assert len([d for d in store.json("drive", "list") if d["state"] == "up"]) == 6
    ok(f"a drive is added, another drained and removed ({shown.stdout.splitlines()[0] if shown.stdout else ''})")


def keys(store):
    made = store.json("key", "create", "--user", "anna")
    import boto3

    anna = boto3.client(
        "s3", endpoint_url=store.endpoint, region_name="us-east-1",
        aws_access_key_id=made["access_key"], aws_secret_access_key=made["secret_key"],
    )
    anna.create_bucket(Bucket="annas")
    try:
        anna.list_objects_v2(Bucket="mine")
        raise AssertionError("anna reads what isn't hers")
    except ClientError as error:
        assert error.response["Error"]["Code"] == "AccessDenied"
    assert [b["Name"] for b in anna.list_buckets()["Buckets"]] == ["annas"]
    assert made["secret_key"] not in store.run("key", "list", "--json").stdout
    store.run("key", "revoke", made["access_key"])
    try:
        anna.list_buckets()
        raise AssertionError("a revoked key works")
    except ClientError as error:
        assert error.response["Error"]["Code"] == "InvalidAccessKeyId"
    ok("users own their buckets; a revoked key is worth nothing")


def certificate(folder):
    """A self-signed certificate for 127.0.0.1: chain and key as PEM files."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "abide test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    cert = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(cert.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return folder / "cert.pem", folder / "key.pem"


def https():
    import http.client
    import ssl
    import tempfile
    import urllib.request

    with tempfile.TemporaryDirectory() as folder:
        cert, key = certificate(Path(folder))
        with Store(drives=2, options=["--tls-cert", cert, "--tls-key", key]) as store:
            aws = store.aws()
            assert aws["AWS_ENDPOINT_URL"].startswith("https://"), aws
            environment = {**store.client_environment(), "AWS_CA_BUNDLE": str(cert)}
            for command in (["mb", "s3://secure"], ["cp", __file__, "s3://secure/a"], ["cp", "s3://secure/a", f"{folder}/a"]):
                done = subprocess.run(["aws", "s3", *command], env=environment, capture_output=True, text=True)
                assert done.returncode == 0, done.stderr
            assert Path(folder, "a").read_bytes() == Path(__file__).read_bytes()
            trusting = ssl.create_default_context(cafile=str(cert))
            with urllib.request.urlopen(f"https://127.0.0.1:{store.port}/health", context=trusting) as answer:
                assert json.load(answer)["health"] == "green"
            plain = http.client.HTTPConnection("127.0.0.1", store.port, timeout=10)
            try:
                plain.request("GET", "/health")
                raise AssertionError(f"plain HTTP was answered: {plain.getresponse().status}")
            except (http.client.HTTPException, OSError):
                pass
            wrong = up_fails(store, [Path(folder) / "d1"], "--tls-cert", key, "--tls-key", key, home=Path(folder) / "home")
            assert "certificate" in wrong or "PEM" in wrong, wrong
            assert not (Path(folder) / "d1").exists(), "a store was made although its certificate can't be read"
    ok("HTTPS is served, plain HTTP is not answered, a wrong certificate file is refused first")


def main():
    https()
    with Store(drives=6) as store:
        words, key, secret = first_start(store)
        client = store.boto3()
        client.create_bucket(Bucket="mine")
        stored = {f"needle-name-{n}": contents(n, n * 70_000, 1) for n in range(20)}
        stored["needle-small"] = b"needle-content " * 20
        for name, data in stored.items():
            client.put_object(Bucket="mine", Key=name, Body=data, Metadata={"needle": "needle-meta"})
        status = store.status()
        assert status["health"] == "green" and status["spare_losses"] == 2, status
        assert status["totals"]["objects"] == len(stored), status["totals"]
        assert "2 drives" in store.run("status").stdout
        refusals(store, key)
        keys(store)
        plaintext_is_nowhere(store, b"needle-name", b"needle-content", b"needle-meta", secret.encode(), words[0].encode() + b" " + words[1].encode())
        drives(store, client)
        verified = store.json("verify", "mine")
        assert verified["findings"] == [] and verified["objects"] == len(stored), verified
        assert json.loads(store.run("events", "--json").stdout), "no events"
        store.run("scrub")
        assert store.run("verify", "mine/nothing", check=False).returncode != 0
        assert store.run("policy", "set", "mine", "3 copies").returncode == 0
        store.drives = [d for d in [*store.drives, store.base / "d7"] if d != store.drives[2]]
        store.stop()
        wrong_keys(store, key)
        store.start()
        for name, data in stored.items():
            assert client.get_object(Bucket="mine", Key=name)["Body"].read() == data, name
        ok("everything is there after Ctrl-C and another start")
        store.stop()
        moved = [store.base / f"moved{n}" for n in range(len(store.drives))]
        for old, new in zip(reversed(store.drives), moved):
            old.rename(new)
        store.drives = moved[1:-1]
        store.start()
        for name, data in stored.items():
            assert client.get_object(Bucket="mine", Key=name)["Body"].read() == data, name
        ok("and from folders that were renamed, shuffled and lost two of them")
    none = subprocess.run([ABIDE, "status"], env={**os.environ, "ABIDE_HOME": "/nonexistent"}, capture_output=True, text=True)
    assert none.returncode == 1 and "abide up" in none.stderr, none.stderr
    typo = subprocess.run([ABIDE, "statsu"], capture_output=True, text=True)
    assert typo.returncode == 2 and "status" in typo.stderr, typo.stderr
    ok("errors say what to do")


main()
