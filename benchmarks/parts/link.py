"""Two network namespaces of this host and a link of a given rate between them, made by `ip` and `tc`; needs root."""

from __future__ import annotations

import os
import subprocess
from types import TracebackType

# Trainer 0's loopback address is reached over the link from the other namespace: fleet's trainers of one host meet there.
# TBF shapes what leaves each end: the link carries its rate in both directions at once.
_MAKE = """
ip netns add {a}
ip netns add {b}
ip link add eth0 netns {a} type veth peer name eth0 netns {b}
ip -n {a} link set lo up
ip -n {b} link set lo up
ip -n {b} addr del 127.0.0.1/8 dev lo
ip -n {a} addr add 10.77.0.1/24 dev eth0
ip -n {b} addr add 10.77.0.2/24 dev eth0
ip -n {a} link set eth0 up
ip -n {b} link set eth0 up
ip netns exec {a} sysctl -qw net.ipv4.conf.eth0.route_localnet=1
ip netns exec {b} sysctl -qw net.ipv4.conf.eth0.route_localnet=1
ip -n {b} route add 127.0.0.1/32 via 10.77.0.1
tc -n {a} qdisc add dev eth0 root tbf rate {rate}mbit burst 128kb latency 50ms
tc -n {b} qdisc add dev eth0 root tbf rate {rate}mbit burst 128kb latency 50ms
"""


class LinkError(Exception):
    """No link can be made here."""


class Link:
    """A link between the namespaces ``names[0]`` and ``names[1]``; gone when the block ends.

    Raises:
        LinkError: this process may not make namespaces, or `ip`, `tc` or the kernel's TBF is missing.
    """

    way = "network namespaces, a veth pair, tc's token bucket on both ends"

    def __init__(self, megabits: int) -> None:
        self.names = [f"fleet-link-{os.getpid()}-{end}" for end in "ab"]
        self._rate = megabits

    def __enter__(self) -> Link:
        for line in _MAKE.format(a=self.names[0], b=self.names[1], rate=self._rate).strip().splitlines():
            try:
                done = subprocess.run(line.split(), capture_output=True, text=True)
                failure = done.stderr.strip() if done.returncode else ""
            except FileNotFoundError as error:
                failure = str(error)
            if failure:
                self.__exit__(None, None, None)
                raise LinkError(f"{line}: {failure} (it takes root and iproute2)")
        return self

    def inside(self, end: int, command: list[str]) -> list[str]:
        """Return the command that runs ``command`` at an end of the link."""
        return ["ip", "netns", "exec", self.names[end], *command]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for name in self.names:
            try:
                subprocess.run(["ip", "netns", "del", name], capture_output=True)
            except FileNotFoundError:
                return
