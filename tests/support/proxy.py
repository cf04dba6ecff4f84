"""A load balancer, as people put it before a cluster: one address, in turn to the nodes that are well.

    python3 proxy.py [--listen HOST:PORT] NODE:PORT…

Asks each node several times a second whether it answers HTTP; to one that doesn't, no connection goes,
and those it has are reset, so that their clients ask again at once. Prints `listening HOST:PORT`; at
SIGTERM or SIGINT one line of JSON: how often what happened, and the longest time that a client waited
for the next byte.
"""

import argparse
import asyncio
import itertools
import json
import signal
import time

# A node that answers nothing for so long is taken to be hung. Less would reset the connections of
# nodes that are well on a busy machine; more would use up the time that a client may wait.
ANSWER_MAX = 1.0
ASK_EVERY = 0.3
CHUNK = 1 << 18
METHODS = (b"GET /", b"PUT /", b"HEAD /", b"POST /", b"DELETE /")


class Node:
    def __init__(self, address):
        self.address = address
        self.host, port = address.rsplit(":", 1)
        self.port = int(port)
        self.well = False
        self.connections = set()

    async def ask(self):
        """Whether it answers HTTP, with whatever but an error of its own."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % self.address.encode())
            line = (await reader.readline()).split()
            return len(line) > 1 and line[0].startswith(b"HTTP/1.") and not line[1].startswith(b"5")
        finally:
            writer.transport.abort()

    async def watch(self, stats):
        while True:
            try:
                well = await asyncio.wait_for(self.ask(), ANSWER_MAX)
            except (OSError, ValueError, TimeoutError, asyncio.TimeoutError):
                well = False
            if self.well and not well:
                stats["went"] += 1
                for connection in list(self.connections):
                    stats["reset"] += 1
                    connection.reset()
            self.well = well
            await asyncio.sleep(ASK_EVERY)


class Connection:
    """One client's connection and the node's that belongs to it."""

    def __init__(self, proxy, node, client, server):
        self.proxy, self.node, self.client, self.server = proxy, node, client, server
        # Since when the client has been waiting for a byte; none while it isn't its turn to wait.
        self.waits_since = None
        self.request = ""

    def reset(self):
        self.waited()
        for _, writer in (self.client, self.server):
            writer.transport.abort()

    def waited(self):
        if self.waits_since is not None:
            self.proxy.waited(time.monotonic() - self.waits_since, self)
            self.waits_since = None

    async def to_server(self):
        while data := await self.client[0].read(CHUNK):
            if data.startswith(METHODS):
                self.request = data[:200].split(b" HTTP/", 1)[0].split(b"?X-Amz", 1)[0].decode("latin-1")
            self.waits_since = time.monotonic()
            self.server[1].write(data)
            await self.server[1].drain()
            if self.waits_since is not None:
                self.waited()
                self.waits_since = time.monotonic()

    async def to_client(self):
        while data := await self.server[0].read(CHUNK):
            self.waited()
            self.client[1].write(data)
            await self.client[1].drain()
        self.waited()

    async def run(self):
        self.node.connections.add(self)
        ways = [asyncio.ensure_future(way) for way in (self.to_server(), self.to_client())]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if not all(way.cancelled() or way.exception() for way in done):
                # One side said its last: what was passed on may still arrive.
                await asyncio.wait_for(self.client[1].drain(), ANSWER_MAX)
        except (OSError, TimeoutError, asyncio.TimeoutError):
            pass
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self.node.connections.discard(self)
            self.waited()
            for _, writer in (self.client, self.server):
                writer.close()


class Proxy:
    def __init__(self, nodes):
        self.nodes = nodes
        self.turn = itertools.count()
        self.stats = {"connections": 0, "refused": 0, "went": 0, "reset": 0, "longest_wait": 0.0, "waited_for": ""}

    def waited(self, seconds, connection):
        if seconds > self.stats["longest_wait"]:
            self.stats["longest_wait"] = round(seconds, 3)
            self.stats["waited_for"] = f"{connection.request} at {connection.node.address}"

    def candidates(self):
        """The nodes that are well, the least busy first, and in turn where they are alike."""
        start = next(self.turn)
        turned = [self.nodes[(start + at) % len(self.nodes)] for at in range(len(self.nodes))]
        return sorted((node for node in turned if node.well), key=lambda node: len(node.connections))

    async def connect(self):
        for _ in range(20):
            for node in self.candidates():
                try:
                    return node, await asyncio.wait_for(asyncio.open_connection(node.host, node.port), ANSWER_MAX)
                except (OSError, TimeoutError, asyncio.TimeoutError):
                    continue
            await asyncio.sleep(ASK_EVERY / 2)
        return None, None

    async def serve(self, reader, writer):
        try:
            await self.pass_on(reader, writer)
        except asyncio.CancelledError:
            # The proxy ends: there is nobody left to tell.
            writer.transport.abort()

    async def pass_on(self, reader, writer):
        self.stats["connections"] += 1
        node, server = await self.connect()
        if node is None:
            self.stats["refused"] += 1
            writer.transport.abort()
            return
        await Connection(self, node, (reader, writer), server).run()


async def main():
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--listen", default="127.0.0.1:0")
    words.add_argument("nodes", nargs="+", type=Node)
    words = words.parse_args()
    proxy = Proxy(words.nodes)
    watches = [asyncio.ensure_future(node.watch(proxy.stats)) for node in words.nodes]
    host, port = words.listen.rsplit(":", 1)
    server = await asyncio.start_server(proxy.serve, host, int(port), limit=CHUNK)
    print("listening %s:%d" % server.sockets[0].getsockname()[:2], flush=True)
    end = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    await end.wait()
    for task in watches:
        task.cancel()
    print(json.dumps(proxy.stats), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
