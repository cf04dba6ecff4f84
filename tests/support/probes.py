"""Clients that never stop: small requests one after the other, each timed, each answer compared.

What a request took is what the user waited, the SDK's standard retries among it.
"""

import random
import threading
import time

from support.store import body, contents

SIZES = [0, 100, 4096, 70_000, 900_000]
KEYS = 40
# After so many requests a client may be dealt another node.
STAY = 25


class Probe(threading.Thread):
    """Works on keys of its own in `bucket`, so that it knows what each must hold."""

    def __init__(self, number, bucket, spread, value, stop):
        super().__init__(daemon=True)
        self.number, self.bucket, self.spread, self.stop = number, bucket, spread, stop
        self.chance = random.Random(f"{value}/probe/{number}")
        self.seed = value
        self.held = {}
        self.clients = {}
        self.count = 0
        self.longest = (0.0, "nothing")
        # Seconds that each request took.
        self.times = []
        self.error = None

    def run(self):
        try:
            while not self.stop.is_set():
                with self.spread.node() as place:
                    client = self.clients.setdefault(place.endpoint, None) or place.boto3()
                    self.clients[place.endpoint] = client
                    for _ in range(STAY):
                        if not self.stop.is_set():
                            self.request(client, place)
        except BaseException as error:  # noqa: B902: told by whoever waits for this thread
            self.error = error

    def request(self, client, place):
        key = f"p{self.number}/k{self.chance.randrange(KEYS)}"
        act = self.chance.choices([self.put, self.get, self.list, self.delete], [50, 35, 8, 7])[0]
        began = time.monotonic()
        try:
            act(client, key)
        except Exception as error:
            seconds = time.monotonic() - began
            raise AssertionError(f"{act.__name__} {key} at {place.endpoint} failed after {seconds:.1f} s: {error!r}") from error
        took = time.monotonic() - began
        self.times.append(took)
        self.longest = max(self.longest, (took, f"{act.__name__} {key} at {place.endpoint}"))
        self.count += 1

    def put(self, client, key):
        value = (self.chance.randrange(1 << 60), self.chance.choice(SIZES))
        data = contents(value[0], value[1], self.seed)
        client.put_object(Bucket=self.bucket, Key=key, Body=data)
        self.held[key] = value

    def delete(self, client, key):
        client.delete_object(Bucket=self.bucket, Key=key)
        self.held.pop(key, None)

    def get(self, client, key):
        try:
            found = body(client, self.bucket, key)
        except client.exceptions.NoSuchKey:
            assert key not in self.held, f"{key} was acknowledged and is gone"
            return
        assert key in self.held, f"{key} was deleted and is back"
        serial, size = self.held[key]
        assert found == contents(serial, size, self.seed), f"{key} holds {len(found)} other bytes than the {size} written"

    def list(self, client, _key):
        rows = client.list_objects_v2(Bucket=self.bucket, Prefix=f"p{self.number}/").get("Contents", [])
        found = {row["Key"]: row["Size"] for row in rows}
        wanted = {key: size for key, (_, size) in self.held.items()}
        assert found == wanted, f"listed {set(found.items()) ^ set(wanted.items())} wrongly"

    def compare_all(self, client):
        """Every key once more, however the last requests were dealt."""
        for number in range(KEYS):
            self.get(client, f"p{self.number}/k{number}")
        self.list(client, None)


class Probes:
    """`count` probes at work inside a `with`."""

    def __init__(self, count, bucket, spread, value):
        self.stop = threading.Event()
        self.all = [Probe(number, bucket, spread, value, self.stop) for number in range(count)]

    def __enter__(self):
        for probe in self.all:
            probe.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for probe in self.all:
            probe.join()

    def check(self):
        """Raises what a probe met."""
        for probe in self.all:
            if probe.error:
                raise probe.error

    @property
    def count(self):
        return sum(probe.count for probe in self.all)

    @property
    def longest(self):
        return max(probe.longest for probe in self.all)
