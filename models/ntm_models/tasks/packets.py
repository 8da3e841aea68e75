"""The packets of synthetic flows, by kind: what `flows.py` makes its episodes of.

Rules of this file: a kind is a generator of packets without end, all of its chance from the generator that it is
given; what a single packet looks like is shared by several kinds, what follows what is not.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np

# sender, size, gap before it, opens the connection, wants delivery at once
Packet = tuple[float, float, float, float, float]
Range = tuple[float, float]

CLIENT, SERVER = 1.0, 0.0

# What 0 and 1 stand for, on a scale of logarithms: bytes of an IP packet, and seconds since the one before it.
SIZE_BYTES, GAP_S = (30.0, 1500.0), (1e-4, 100.0)

# Sizes and gaps, from 0 to 1 on those scales.
SMALL, LARGE = (0.2, 0.55), (0.75, 1.0)
QUICK, PAUSE = (0.0, 0.25), (0.5, 0.95)

# How far a size or a gap that is "always the same" strays.
STRAY = 0.01


def packet_of(*, from_client: bool, size_bytes: float, gap_s: float, syn: bool, push: bool) -> Packet:
    """A packet of a capture. size_bytes: of the IP packet, with its headers. gap_s: since the packet before it in its
    flow, 0 for the first. syn, push: TCP's flags SYN and PSH.
    """
    size, gap = _on_scale(size_bytes, SIZE_BYTES), _on_scale(gap_s, GAP_S)
    return CLIENT if from_client else SERVER, size, gap, float(syn), float(push)


def opening(random: np.random.Generator) -> Iterator[Packet]:
    """The two packets that every flow begins with."""
    yield CLIENT, 0.1, 0.0, 1.0, 0.0
    yield SERVER, 0.1, random.uniform(*QUICK), 1.0, 0.0


def browse(random: np.random.Generator) -> Iterator[Packet]:
    """A request, some large answers, a pause; and again."""
    while True:
        yield _packet(random, CLIENT, SMALL, PAUSE)
        yield from _run(random, SERVER, int(random.integers(1, 7)))


def download(random: np.random.Generator) -> Iterator[Packet]:
    """One request, then large answers to the end, each few of them acknowledged."""
    yield _packet(random, CLIENT, SMALL, QUICK)
    while True:
        yield from _run(random, SERVER, int(random.integers(2, 6)))
        yield _acknowledged(random, CLIENT)


def upload(random: np.random.Generator) -> Iterator[Packet]:
    """A request and a large answer, the form to fill in; then large packets to the server."""
    yield _packet(random, CLIENT, SMALL, QUICK)
    yield from _run(random, SERVER, 2)
    while True:
        yield from _run(random, CLIENT, int(random.integers(2, 6)))
        yield _acknowledged(random, SERVER)


def chat(random: np.random.Generator) -> Iterator[Packet]:
    """Small packets of any size, either way, after any pause."""
    while True:
        yield _packet(random, float(random.integers(2)), SMALL, PAUSE)


def slow_requests(random: np.random.Generator) -> Iterator[Packet]:
    """Small packets of one request that never ends, after long gaps; next to no answers."""
    while True:
        yield _packet(random, CLIENT if random.random() < 0.95 else SERVER, SMALL, PAUSE)


def guessing(random: np.random.Generator) -> Iterator[Packet]:
    """Requests of any small size, each with the same refusal."""
    refusal = random.uniform(*SMALL)
    while True:
        yield _packet(random, CLIENT, SMALL, PAUSE)
        yield SERVER, _about(random, refusal), random.uniform(*PAUSE), 0.0, 1.0


def exfiltration(random: np.random.Generator) -> Iterator[Packet]:
    """Browsing, with large packets to the server among it that nothing announced."""
    while True:
        yield _packet(random, CLIENT, SMALL, PAUSE)
        yield from _run(random, SERVER, int(random.integers(1, 4)))
        yield from _run(random, CLIENT, int(random.integers(1, 4)))


def beacon(random: np.random.Generator) -> Iterator[Packet]:
    """Small requests after a gap that is always the same, each answered at once."""
    gap = random.uniform(*PAUSE)
    while True:
        yield CLIENT, random.uniform(*SMALL), _about(random, gap), 0.0, 1.0
        yield _packet(random, SERVER, SMALL, QUICK)


Kind = Callable[[np.random.Generator], Iterator[Packet]]

BENIGN: tuple[Kind, ...] = (browse, download, upload, chat)
ATTACKS: tuple[Kind, ...] = (slow_requests, guessing, exfiltration, beacon)


def _packet(random: np.random.Generator, sender: float, size: Range, gap: Range) -> Packet:
    """One that wants delivery at once."""
    return sender, random.uniform(*size), random.uniform(*gap), 0.0, 1.0


def _run(random: np.random.Generator, sender: float, packets: int) -> Iterator[Packet]:
    """Large packets close upon one another, the last of which wants delivery at once."""
    for nth in range(packets):
        yield sender, random.uniform(*LARGE), random.uniform(*QUICK), 0.0, float(nth == packets - 1)


def _acknowledged(random: np.random.Generator, sender: float) -> Packet:
    """A packet without content."""
    return sender, 0.1, random.uniform(*QUICK), 0.0, 0.0


def _on_scale(value: float, limits: Range) -> float:
    """From 0 at the least of the limits, or below it, to 1 at the most, or above it."""
    least, most = limits
    return math.log(min(max(value, least), most) / least) / math.log(most / least)


def _about(random: np.random.Generator, value: float) -> float:
    return value + STRAY * random.standard_normal()
