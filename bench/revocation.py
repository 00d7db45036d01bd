"""How long many workers still accept a revoked token, also after a network partition.

`python -m bench.revocation` prints the figures. A token is revoked at Clerk and then invalidated in
one worker. The time is measured until the last worker refuses the token. Redis is a real Valkey.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from bench.fleet import SHARING, ask_all, percentile, question, workers
from bench.measure import FULL, Effort
from bench.own_valkey import own_valkey
from bench.partition import network_to
from bench.processes import Process
from bench.upstream import Upstream, running
from clerk_m2m import SyncClerkClient

WORKERS: Final = 20
REVOCATIONS: Final = 100
PARTITIONS: Final = 3

# Seconds: the length of a partition, and the longest wait until a worker follows the log.
PARTED: Final = 5.0
SYNC: Final = 10.0
# Seconds until all workers have begun to verify a token again and again.
SETTLED: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """The seconds of one revocation: until all workers refuse, and until the call returned."""

    refused: float
    returned: float


class Stage:
    """Workers of one service that follow the log. The last one's network can be interrupted."""

    def __init__(self, upstream: Upstream, processes: Sequence[Process], network: Process) -> None:
        self._upstream = upstream
        self._processes = processes
        self._network = network
        self._tokens = iter(upstream.opaque_tokens)
        self._client = SyncClerkClient(secret_key=upstream.secret_key, api_url=upstream.origin)

    def close(self) -> None:
        """Close the client of the Backend API."""
        self._client.close()

    def revoke(self) -> Revoked:
        """Revoke a token that all workers have cached, while all are connected."""
        first, *others = self._processes
        token = self._verified_and_revoked()
        for each in others:
            each.tell(question("until_refused", SHARING, given=[token]))
        time.sleep(SETTLED)
        began, returned = self._invalidate(first, token)
        refused = max(each.answer()[0] for each in others)
        return Revoked(refused=refused - began, returned=returned - began)

    def revoke_while_parted(self, seconds: float) -> float:
        """Revoke a token during a partition of the last worker, which lasts `seconds`.

        Returns for how many seconds after the partition that worker still accepts the token.
        """
        first, last = self._processes[0], self._processes[-1]
        token = self._verified_and_revoked()
        last.tell(question("until_refused", SHARING, given=[token]))
        parted_at = self._network.ask(False)
        self._invalidate(first, token)
        time.sleep(max(0.0, parted_at + seconds - time.monotonic()))
        healed_at: float = self._network.ask(True)
        refused_at: float = last.answer()[0]
        return refused_at - healed_at

    def _verified_and_revoked(self) -> str:
        token = next(self._tokens)
        following = ask_all(self._processes, question("follow", SHARING, given=[SYNC]))
        if not all(answer == [True] for answer in following):
            raise RuntimeError("A worker does not follow the log.")
        ask_all(self._processes, question("verify_all", SHARING, given=[[token], 1]))
        self._client.m2m_tokens.revoke(self._client.m2m_tokens.verify(token).id)
        return token

    @staticmethod
    def _invalidate(process: Process, token: str) -> tuple[float, float]:
        ((began, returned),) = process.ask(
            question("invalidate_everywhere", SHARING, given=[token])
        )
        return began, returned


@contextmanager
def stage(upstream: Upstream, count: int) -> Iterator[Stage]:
    """Start this number of workers, and a new server."""
    with own_valkey() as server, network_to(server.port) as (port, network):
        ports = [server.port] * (count - 1) + [port]
        servers = [f"redis://127.0.0.1:{each}" for each in ports]
        with workers(upstream, servers, share_verdicts=False, timeout=10.0) as processes:
            opened = Stage(upstream, processes, network)
            try:
                yield opened
            finally:
                opened.close()


def measured(upstream: Upstream, effort: Effort) -> tuple[list[Revoked], list[float]]:
    """Revoke tokens while all workers are connected, then during partitions of one worker."""
    with stage(upstream, max(2, effort.count(WORKERS))) as opened:
        connected = [opened.revoke() for _ in range(effort.count(REVOCATIONS))]
        seconds = PARTED / effort.divisor
        parted = [opened.revoke_while_parted(seconds) for _ in range(effort.some(PARTITIONS))]
    return connected, parted


def _milliseconds(name: str, seconds: Sequence[float]) -> str:
    p50, p99 = statistics.median(seconds), percentile(list(seconds))
    shown = "  ".join(
        f"{title} {value * 1000:7.1f} ms"
        for title, value in (("p50", p50), ("p99", p99), ("max", max(seconds)))
    )
    return f"{name:<46} {shown}  of {len(seconds)}"


def main() -> None:
    """Measure and print. The aims are 50 ms at the 99th percentile, and 1 s after a partition."""
    with running(Effort(divisor=10)) as upstream:
        connected, parted = measured(upstream, FULL)
    print(_milliseconds("until all workers refuse", [each.refused for each in connected]))
    print(_milliseconds("until the call returned", [each.returned for each in connected]))
    print(_milliseconds(f"after a partition of {PARTED:g} s has healed", parted))


if __name__ == "__main__":
    main()
