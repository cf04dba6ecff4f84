"""Bad input against the real server: each is refused with the right code, and nothing is left behind."""

import base64
import datetime
import hashlib
import hmac
import socket
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.store import Store, wait_for  # noqa: E402

from botocore.exceptions import ClientError  # noqa: E402

EMPTY = hashlib.sha256(b"").hexdigest()


class Raw:
    """Requests to the byte: signs by itself, and lets every part be wrong."""

    def __init__(self, store):
        aws = store.aws()
        self.access, self.secret = aws["AWS_ACCESS_KEY_ID"], aws["AWS_SECRET_ACCESS_KEY"]
        self.region = aws["AWS_REGION"]
        self.address = ("127.0.0.1", store.port)
        self.host = f"127.0.0.1:{store.port}"

    def key(self, date):
        key = ("AWS4" + self.secret).encode()
        for part in (date, self.region, "s3", "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return key

    def sign(self, method, path, headers, payload, when=None):
        when = when or datetime.datetime.now(datetime.timezone.utc)
        stamp = when.strftime("%Y%m%dT%H%M%SZ")
        headers = {"host": self.host, "x-amz-date": stamp, "x-amz-content-sha256": payload, **headers}
        names = ";".join(sorted(headers))
        lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        canonical = f"{method}\n{path}\n\n{lines}\n{names}\n{payload}"
        scope = f"{stamp[:8]}/{self.region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.new(self.key(stamp[:8]), text.encode(), hashlib.sha256).hexdigest()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.access}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        return headers, stamp, scope, signature

    def send(self, method, path, headers, body=b"", close_after=False, chunks=None):
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
        with socket.create_connection(self.address, timeout=30) as conn:
            try:
                conn.sendall(head.encode() + body)
                if close_after:
                    conn.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            return self.answer(conn)

    @staticmethod
    def answer(conn):
        data = b""
        while b"\r\n\r\n" not in data:
            try:
                part = conn.recv(65536)
            except OSError:
                break
            if not part:
                break
            data += part
        if not data:
            return 0, ""
        head, _, body = data.partition(b"\r\n\r\n")
        length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0)
        while len(body) < length:
            part = conn.recv(65536)
            if not part:
                break
            body += part
        return int(head.split()[1]), body.decode(errors="replace")


def expect(what, answer, status, code=None):
    statuses = status if isinstance(status, tuple) else (status,)
    assert answer[0] in statuses, f"{what}: {answer[0]} instead of {status}: {answer[1][:300]}"
    assert code is None or f"<Code>{code}</Code>" in answer[1], f"{what}: not {code}: {answer[1][:300]}"
    print(f"ok  {what}: {answer[0]} {code or ''}", flush=True)


def missing(client, key):
    try:
        client.head_object(Bucket="bad", Key=key)
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"] == 404
    return False


def signatures(store, raw, client):
    headers, *_ = raw.sign("PUT", "/bad/wrong", {}, "UNSIGNED-PAYLOAD")
    headers["authorization"] = headers["authorization"][:-4] + "0000"
    expect("wrong signature", raw.send("PUT", "/bad/wrong", {**headers, "content-length": 3}, b"abc"), 403, "SignatureDoesNotMatch")
    past = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
    headers, *_ = raw.sign("GET", "/bad", {}, EMPTY, past)
    expect("skewed clock", raw.send("GET", "/bad", headers), 403, "RequestTimeTooSkewed")
    headers, *_ = raw.sign("GET", "/bad", {}, EMPTY)
    headers["authorization"] = headers["authorization"].replace(raw.access, "AKIDOESNOTEXIST")
    expect("unknown key", raw.send("GET", "/bad", headers), 403, "InvalidAccessKeyId")
    v4 = store.boto3(signature_version="s3v4")
    url = v4.generate_presigned_url("get_object", Params={"Bucket": "bad", "Key": "x"}, ExpiresIn=1)
    parts = urlsplit(url)
    time.sleep(2.1)  # the clock itself is what is tested
    expect("expired presigned URL", raw.send("GET", f"{parts.path}?{parts.query}", {"host": raw.host}), 403)
    expect("anonymous", raw.send("GET", "/bad", {"host": raw.host}), 403, "AccessDenied")
    assert missing(client, "wrong")


def bodies(raw, client):
    headers, *_ = raw.sign("PUT", "/bad/sha", {}, hashlib.sha256(b"abc").hexdigest())
    expect("body unlike its SHA-256", raw.send("PUT", "/bad/sha", {**headers, "content-length": 3}, b"abd"), 400, "XAmzContentSHA256Mismatch")
    headers, *_ = raw.sign("PUT", "/bad/cut", {}, "UNSIGNED-PAYLOAD")
    raw.send("PUT", "/bad/cut", {**headers, "content-length": 1000}, b"x" * 10, close_after=True)
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    headers, *_ = raw.sign("PUT", "/bad/md5", {"content-md5": wrong}, "UNSIGNED-PAYLOAD")
    expect("wrong Content-MD5", raw.send("PUT", "/bad/md5", {**headers, "content-length": 3}, b"abc"), 400, "BadDigest")
    headers, *_ = raw.sign("PUT", "/bad/crc", {"x-amz-checksum-crc32": "AAAAAA=="}, "UNSIGNED-PAYLOAD")
    expect("wrong checksum", raw.send("PUT", "/bad/crc", {**headers, "content-length": 3}, b"abc"), 400)
    headers, *_ = raw.sign("PUT", "/bad/nolength", {}, "UNSIGNED-PAYLOAD")
    expect("no length", raw.send("PUT", "/bad/nolength", headers), 411, "MissingContentLength")
    for key in ("sha", "cut", "md5", "crc", "nolength"):
        assert missing(client, key), f"{key} was stored"


def chunk_stream(raw, key, break_at):
    chunks = [b"a" * 65536, b"b" * 65536, b"c" * 1000, b""]
    payload = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    total = sum(map(len, chunks))
    headers, stamp, scope, previous = raw.sign(
        "PUT", f"/bad/{key}", {"x-amz-decoded-content-length": str(total), "content-encoding": "aws-chunked"}, payload
    )
    body = b""
    for number, chunk in enumerate(chunks):
        text = f"AWS4-HMAC-SHA256-PAYLOAD\n{stamp}\n{scope}\n{previous}\n{EMPTY}\n{hashlib.sha256(chunk).hexdigest()}"
        previous = hmac.new(raw.key(stamp[:8]), text.encode(), hashlib.sha256).hexdigest()
        shown = previous if number != break_at else "0" * 64
        body += f"{len(chunk):x};chunk-signature={shown}\r\n".encode() + chunk + b"\r\n"
    return raw.send("PUT", f"/bad/{key}", {**headers, "content-length": len(body)}, body)


def chunks(raw, client):
    expect("signed chunks", chunk_stream(raw, "chunks", None), 200)
    got = client.get_object(Bucket="bad", Key="chunks")
    assert got["ContentLength"] == 132072 and "aws-chunked" not in got.get("ContentEncoding", "")
    expect("wrong chunk signature in the middle", chunk_stream(raw, "midchunk", 1), 403, "SignatureDoesNotMatch")
    assert missing(client, "midchunk")


def keys(raw, client):
    for key in ("..", "../..", "a/../b", "//", "/lead", "a//b", "trail/", ".", "./x", "%2e%2e", "a\\b", "\x01", "é/ü"):
        client.put_object(Bucket="bad", Key=key, Body=key.encode())
    for key in ("..", "../..", "a/../b", "//", "/lead", "a//b", "trail/", ".", "./x", "%2e%2e", "a\\b", "\x01", "é/ü"):
        assert client.get_object(Bucket="bad", Key=key)["Body"].read() == key.encode(), key
    print("ok  odd keys are just names")
    for what, path in (("long key", "/bad/" + "k" * 1025), ("not UTF-8", "/bad/%ff%fe"), ("NUL", "/bad/a%00b")):
        headers, *_ = raw.sign("PUT", path, {}, "UNSIGNED-PAYLOAD")
        expect(what, raw.send("PUT", path, {**headers, "content-length": 0}), 400)


def xml(raw, client):
    for what, body in (
        ("broken XML", b"<Delete><Object>"), ("entity bomb", b'<!DOCTYPE a [<!ENTITY b "c">]><Delete>&b;</Delete>'),
        ("no XML", b"\x00\xff\x00"),
    ):
        digest = hashlib.sha256(body).hexdigest()
        md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
        canonical = "/bad"
        # The query takes part in the signature: one pair, no value.
        headers = sign_query(raw, "POST", canonical, "delete=", {"content-md5": md5}, digest, datetime.datetime.now(datetime.timezone.utc))
        expect(what, raw.send("POST", "/bad?delete", {**headers, "content-length": len(body)}, body), 400, "MalformedXML")
    upload = client.create_multipart_upload(Bucket="bad", Key="parts")["UploadId"]
    for what, number in (("part 0", 0), ("part 10,001", 10001)):
        try:
            client.upload_part(Bucket="bad", Key="parts", UploadId=upload, PartNumber=number, Body=b"x")
            raise AssertionError(f"{what} was taken")
        except ClientError as error:
            assert error.response["Error"]["Code"] == "InvalidArgument", error
            print(f"ok  {what} is refused")
    etags = [client.upload_part(Bucket="bad", Key="parts", UploadId=upload, PartNumber=n, Body=b"x")["ETag"] for n in (1, 2)]
    try:
        client.complete_multipart_upload(
            Bucket="bad", Key="parts", UploadId=upload,
            MultipartUpload={"Parts": [{"PartNumber": n + 1, "ETag": etag} for n, etag in enumerate(etags)]},
        )
        raise AssertionError("small parts were taken")
    except ClientError as error:
        assert error.response["Error"]["Code"] == "EntityTooSmall", error
        print("ok  parts that are too small")


def sign_query(raw, method, path, query, headers, payload, when):
    stamp = when.strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": raw.host, "x-amz-date": stamp, "x-amz-content-sha256": payload, **headers}
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{payload}"
    scope = f"{stamp[:8]}/{raw.region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.new(raw.key(stamp[:8]), text.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={raw.access}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return headers


def connections(raw, client, store):
    headers = {f"x-filler-{n}": "y" * 4000 for n in range(100)}
    status, _ = raw.send("GET", "/bad", {"host": raw.host, **headers})
    assert status in (0, 400, 413, 431), f"header bomb: {status}"
    print(f"ok  header bomb: {status or 'cut off'}")
    with socket.create_connection(raw.address) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n")
        slow.settimeout(120)
        began = time.monotonic()
        try:
            while time.monotonic() - began < 100:
                slow.sendall(b"x-a: b\r\n")
                slow.settimeout(1)
                try:
                    if slow.recv(1000) == b"" or True:
                        break
                except TimeoutError:
                    continue
        except OSError:
            pass
        print(f"ok  slow loris is cut off after {time.monotonic() - began:.0f} s")
    idle = []
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = min(10_000, hard - 200)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        for _ in range(wanted):
            idle.append(socket.create_connection(raw.address, timeout=30))
        client.put_object(Bucket="bad", Key="beside", Body=b"x")
        assert client.get_object(Bucket="bad", Key="beside")["Body"].read() == b"x"
        print(f"ok  served beside {len(idle)} idle connections")
    finally:
        for conn in idle:
            conn.close()


def main():
    with Store(drives=3) as store:
        client = store.boto3()
        client.create_bucket(Bucket="bad")
        raw = Raw(store)
        signatures(store, raw, client)
        bodies(raw, client)
        chunks(raw, client)
        keys(raw, client)
        xml(raw, client)
        connections(raw, client, store)
        assert store.process.poll() is None, "the server died"
        refused = store.run("policy", "set", "bad", "four+two", check=False)
        assert refused.returncode != 0 and "4+2" in refused.stderr, refused.stderr
        print("ok  unknown policy")
        store.stop()


main()
