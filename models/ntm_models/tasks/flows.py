"""Flows: watch the packets of one connection, and say after each whether it is an attack, and which.

The flows are synthetic: no capture, but packets between a client and a server that are drawn from ranges. What a kind
is lies in what follows what; any single packet may be another kind's. Channels of a packet: 1 where the client sent
it; its size, 0 for 30 bytes and 1 for 1,500, and the gap before it, 0 for 0.1 ms and 1 for 100 s, both on a scale of
logarithms; 1 where it opens the connection or accepts that (SYN); 1 where its sender wants it delivered at once (PSH).
`packet_of` makes them of what a capture says. The kinds are in `packets.py`: half of the flows are
benign, browsing, downloading, uploading or chatting, and all four outputs are wanted 0; of the others that one is
wanted 1 which is the attack's: slow requests, guessing, exfiltration, beacon.

L packets take T = L steps. The first `UNSCORED` do not count: by then every kind has shown itself.
"""

from dataclasses import dataclass
from itertools import chain, islice
from typing import ClassVar, Self

import numpy as np

from ntm_models.tasks.episode import Episodes
from ntm_models.tasks.packets import ATTACKS, BENIGN, opening
from ntm_models.tasks.task import Seed, expect_sizes

CHANNELS = 5
UNSCORED = 16


@dataclass(frozen=True)
class Flows:
    """Which attack a flow is. Inputs I = 5, outputs O = 4."""

    length_min: ClassVar[int] = UNSCORED + 1
    lengths_shown: ClassVar[tuple[int, ...]] = (24, 40, 80)
    length_means: ClassVar[str] = "packets"

    @property
    def inputs(self) -> int:
        return CHANNELS

    @property
    def outputs(self) -> int:
        return len(ATTACKS)

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        """Random flows of `length` packets, half of them attacks. The same seed gives the same flows."""
        expect_sizes(self, length, sequences)
        random = np.random.default_rng(seed)
        x = np.zeros((sequences, length, CHANNELS), np.float32)
        y = np.zeros((sequences, length, len(ATTACKS)), np.float32)
        for row in range(sequences):
            kinds = ATTACKS if random.random() < 0.5 else BENIGN
            nth = int(random.integers(len(kinds)))
            x[row] = list(islice(chain(opening(random), kinds[nth](random)), length))
            y[row, :, nth] = kinds is ATTACKS
        return Episodes(x=x, y=y, scored=np.arange(length) >= UNSCORED)

    def varied(self, _random: np.random.Generator) -> Self:
        return self
