"""Starts a cluster of real `abide` nodes, and does to them what happens to machines.

Nothing here knows how Abide works inside: only its command line and S3.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from support.machines import Room
from support.store import Store, free_port, s3_client, wait_for

# Longer than any answer of a node that is well takes on a busy machine.
STATUS_MAX = 10
# Until a cluster in which every process runs again is whole again.
WHOLE_MAX = float(os.environ.get("CLUSTER_WHOLE", "90"))


class Node(Store):
    """One node. `machine` is the Machine it runs on; None: this one, on loopback."""

    def __init__(self, base, number, drives, options, machine=None):
        super().__init__(drives=drives, options=options, base=base / f"n{number}")
        self.base.mkdir(parents=True, exist_ok=True)
        self.name = f"n{number}"
        self.machine = machine
        self.cluster_port = free_port()
        if machine:
            self.host, self.port, self.cluster_port, self.within = machine.address, 9000, 9400, machine.within
        self.ticket = None
        self.settings = None
        self.over = False
        self.rooms = []

    def bound(self, size):
        """Its drives hold so many bytes each from now on; before it starts."""
        self.rooms = [Room(Path(drive), size) for drive in self.drives]

    def start(self, *words, **more):
        # A vandal may still be at work when the test has failed: nothing may come up any more.
        assert not self.over, f"{self.name}: the test is over"
        return super().start(*words, **more)

    @property
    def cluster_address(self):
        return f"{self.host}:{self.cluster_port}"

    def up_command(self, drives=None):
        words = super().up_command(drives)
        if self.ticket:
            at = words.index("up")
            words[at:at + 1] = ["join", self.ticket]
        return [*words, "--cluster-listen", self.cluster_address]

    def join(self, ticket, **more):
        """The first start of a node that isn't the cluster's first. All later ones are `up`."""
        self.ticket = ticket
        try:
            return self.start(**more)
        finally:
            self.ticket = None

    def aws(self):
        """Asked once: a node that hangs could not say."""
        if self.settings is None:
            self.settings = super().aws()
        return {**self.settings, "AWS_ENDPOINT_URL": self.endpoint}

    def status(self):
        """As a store's; an error if it doesn't answer soon."""
        try:
            done = self.run("status", "--json", check=False, timeout=STATUS_MAX)
        except subprocess.TimeoutExpired as error:
            raise subprocess.CalledProcessError(1, error.cmd) from error
        done.check_returncode()
        return json.loads(done.stdout)

    def hang(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def log_end(self, lines=25):
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


class Cluster:
    """`nodes` nodes with `drives` folders each; `options` go to each of them, or are made for it: options(number)."""

    def __init__(self, nodes=5, drives=2, options=(), machines=None):
        self.base = Path(tempfile.mkdtemp(prefix="abide-cluster-"))
        given = options if callable(options) else lambda number: options
        self.nodes = [
            Node(self.base, number, drives, given(number), machines[number - 1] if machines else None)
            for number in range(1, nodes + 1)
        ]

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, kind, value, trace):
        for node in self.nodes:
            node.over = True
            if kind is not None:
                print(f"--- the end of {node.name}'s log:\n{node.log_end()}", file=sys.stderr)
            node.kill()
        shutil.rmtree(self.base, ignore_errors=True)

    def start(self):
        self.nodes[0].start()
        for count in range(2, len(self.nodes) + 1):
            self._join(count)
        for node in self.nodes:
            node.aws()

    def _join(self, count):
        """Lets the node that is the `count`-th join the others before it."""
        self.nodes[count - 1].join(self.nodes[0].json("invite")["ticket"])
        wait_for(f"{count} nodes know each other", lambda: self.know_each_other(self.nodes[:count]), WHOLE_MAX)

    def add(self, machine=None, options=()):
        """One more node joins."""
        self.nodes.append(Node(self.base, len(self.nodes) + 1, len(self.nodes[0].drives), options, machine))
        self._join(len(self.nodes))
        return self.nodes[-1]

    def stop(self):
        """Ctrl-C for all of them at once."""
        for node in self.nodes:
            node.process.send_signal(signal.SIGINT)
        for node in self.nodes:
            code = node.process.wait(timeout=60)
            assert code == 0, f"{node.name} ended with {code} after Ctrl-C"

    def standing(self, asked):
        """How each node stands, by name, as `asked` sees it; empty while it doesn't answer."""
        try:
            rows = asked.status().get("nodes", [])
        except (subprocess.CalledProcessError, json.JSONDecodeError):
            return {}
        return {node.name: row["standing"] for node in self.nodes if (row := self.row(rows, node))}

    @staticmethod
    def row(rows, node):
        """The row of a status that is about a node: the one with its address."""
        return next((row for row in rows if node.cluster_address in row["addresses"]), None)

    def know_each_other(self, nodes):
        return all(
            [self.standing(asked).get(node.name) for node in nodes] == ["alive"] * len(nodes) for asked in nodes
        )

    def repaired(self):
        """Whether no piece is missing and every drive is there."""
        try:
            status = self.nodes[0].status()
        except (subprocess.CalledProcessError, json.JSONDecodeError):
            return False
        return status["repair"]["pieces"] == 0 and all(drive["state"] == "up" for drive in status["drives"])

    def wait_until_whole(self, seconds=WHOLE_MAX):
        began = time.monotonic()
        try:
            wait_for("all nodes know each other again", lambda: self.know_each_other(self.nodes), seconds)
            wait_for("nothing is missing any more", self.repaired, seconds)
        except AssertionError:
            for asked in self.nodes:
                try:
                    asked.status()
                except subprocess.CalledProcessError as error:
                    print(f"{asked.name} doesn't say how it is: {error.stderr}", flush=True)
                print(f"as {asked.name} sees it: {self.standing(asked)}", flush=True)
            print(json.dumps(self.nodes[0].status(), indent=1), flush=True)
            raise
        return time.monotonic() - began

    def restart_plan(self):
        """Lists of nodes that may be restarted together, in order."""
        plan = self.nodes[0].json("node", "restart-plan")
        waves = plan if isinstance(plan, list) else next(
            plan[name] for name in ("waves", "order", "plan", "nodes") if name in plan
        )
        rows = self.nodes[0].status()["nodes"]
        return [[self.named(word, rows) for word in self._words(wave)] for wave in waves]

    @staticmethod
    def _words(wave):
        if isinstance(wave, dict) and isinstance(wave.get("nodes"), list):
            wave = wave["nodes"]
        return [
            entry.get("id") or entry.get("name") if isinstance(entry, dict) else entry
            for entry in (wave if isinstance(wave, list) else [wave])
        ]

    def named(self, word, rows):
        """The node that a status calls `word`, by its id or name."""
        for node in self.nodes:
            row = self.row(rows, node)
            if row and word in (row["id"], row["name"]):
                return node
        raise AssertionError(f"restart-plan names {word!r}, which no node of the status is: {rows}")


class Front:
    """The proxy of support/proxy.py before all nodes: looks like a store to clients."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.process = None
        self.stats = None

    def __enter__(self):
        program = Path(__file__).with_name("proxy.py")
        nodes = [f"{node.host}:{node.port}" for node in self.cluster.nodes]
        self.process = subprocess.Popen([sys.executable, program, *nodes], stdout=subprocess.PIPE, text=True)
        self.endpoint = "http://" + self.process.stdout.readline().split()[-1]
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        out, _ = self.process.communicate(timeout=30)
        self.stats = json.loads(out.splitlines()[-1])

    def aws(self):
        return {**self.cluster.nodes[0].aws(), "AWS_ENDPOINT_URL": self.endpoint}

    def boto3(self, **config):
        return s3_client(self.aws(), **config)

    def client_environment(self):
        return {**self.cluster.nodes[0].client_environment(), **self.aws()}


class Spread:
    """Deals nodes to clients, and victims to the vandal, so that no victim has a client."""

    def __init__(self, cluster, chance):
        self.cluster, self.chance = cluster, chance
        self.changed = threading.Condition()
        self.clients = {node: 0 for node in cluster.nodes}
        self.victim = None

    @contextmanager
    def node(self):
        """A node that stays well until the client is done with it."""
        with self.changed:
            free = [node for node in self.cluster.nodes if node is not self.victim]
            node = self.chance.choice(free)
            self.clients[node] += 1
        try:
            yield node
        finally:
            with self.changed:
                self.clients[node] -= 1
                self.changed.notify_all()

    @contextmanager
    def prey(self, order):
        """The first node in `order` with the fewest clients, once they left; new ones don't come."""
        with self.changed:
            self.victim = min(order, key=lambda node: self.clients[node])
            self.changed.wait_for(lambda: self.clients[self.victim] == 0)
        try:
            yield self.victim
        finally:
            with self.changed:
                self.victim = None


class Everyone:
    """As Spread, where a victim may be anyone's: all clients go to the front."""

    def __init__(self, front):
        self.front = front

    @contextmanager
    def node(self):
        yield self.front

    @contextmanager
    def prey(self, order):
        yield order[0]


class Background(threading.Thread):
    """Something that goes on meanwhile; what it raised is raised by `check`."""

    def __init__(self, act):
        super().__init__(daemon=True)
        self.act, self.error = act, None

    def run(self):
        try:
            self.act()
        except BaseException as error:  # noqa: B902: told by whoever waits for this thread
            self.error = error

    def check(self):
        if self.error:
            raise self.error


class Vandal:
    """Kills, hangs, slows down, restarts, cuts off and fills one node after the other, for some seconds.

    After each it waits until the cluster is whole again: what is promised is that any one node may
    fail. It stops only after each kind of fault has been at least once.
    """

    def __init__(self, cluster, spread, kinds, value, seconds):
        self.cluster, self.spread, self.kinds = cluster, spread, kinds
        self.chance = random.Random(value)
        self.end = time.monotonic() + seconds
        self.done = []

    def run(self):
        while True:
            for kind in self.chance.sample(self.kinds, len(self.kinds)):
                self.strike(kind)
                if time.monotonic() > self.end and len(self.done) >= len(self.kinds):
                    return

    def strike(self, kind):
        dwell = self.chance.uniform(1, 6)
        fit = [node for node in self.cluster.nodes if node.rooms] if kind == "full" else self.cluster.nodes
        with self.spread.prey(self.chance.sample(fit, len(fit))) as node:
            began = time.monotonic()
            getattr(self, kind)(node, dwell)
            whole = self.cluster.wait_until_whole()
        self.done.append(kind)
        print(f"{kind} {node.name}: {time.monotonic() - began - whole:.1f} s, whole again {whole:.1f} s later", flush=True)

    def kill(self, node, dwell):
        node.kill()
        time.sleep(dwell)
        node.start()

    def hang(self, node, dwell):
        node.hang()
        time.sleep(dwell)
        node.go_on()

    def slow(self, node, dwell):
        """A node that works for a tenth of the time."""
        end = time.monotonic() + dwell
        while time.monotonic() < end:
            node.hang()
            time.sleep(0.09)
            node.go_on()
            time.sleep(0.01)

    def restart(self, node, _dwell):
        node.stop()
        node.start()

    def cut(self, node, dwell):
        node.machine.cut()
        time.sleep(dwell)
        node.machine.join()

    def full(self, node, dwell):
        """A node whose drives take nothing more."""
        for room in node.rooms:
            room.shrink()
        time.sleep(dwell)
        for room in node.rooms:
            room.widen()
