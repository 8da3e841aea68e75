"""vlgiitr/ntm-pytorch: an LSTM whose cell state the heads are projected from; a write clears what it attends to.

A session's first state is projected from the number 0, so of those projections the biases are all that counts. The
program draws the first read vector at random; it is zero here, as a server's sessions must begin alike.
"""

import numpy as np

from ntm_exporter.importers.arrays import Arrays, expect_layout
from ntm_exporter.importers.ntm_weights import Head, NTMWeights, Projection, ntm_of, sigmoid, torch_lstm
from ntm_exporter.importers.program import Program, Settings
from ntm_models.ntm import NTM, Activations, Form, NTMOptions

HEAD = {
    "key_fc": "M", "key_strength_fc": "1", "interpolation_gate_fc": "1", "shift_weighting_fc": "3",
    "sharpen_factor_fc": "1",
}  # fmt: skip
# Both heads have a projection of what is written; a read head makes no use of its own.
PARTS = {**HEAD, "write_data_fc": "M"}

LAYOUT = {
    "controller.controller_net.weight_hh": "4C C",
    "heads.0.key_fc.weight": "M C",
    "controller.controller_net.weight_ih": "4C I+M",
    "controller.controller_net.bias_ih": "4C",
    "controller.controller_net.bias_hh": "4C",
    "controller.out_net.weight": "O C+M",
    "controller.out_net.bias": "O",
    "memory.memory_bias_fc.weight": "NM 1",
    "memory.memory_bias_fc.bias": "NM",
    **{f"controller.{name}_bias_fc.weight": "C 1" for name in ("h", "c")},
    **{f"controller.{name}_bias_fc.bias": "C" for name in ("h", "c")},
    **{f"heads.{head}.{part}.weight": f"{rows} C" for head in (0, 1) for part, rows in PARTS.items()},
    **{f"heads.{head}.{part}.bias": rows for head in (0, 1) for part, rows in PARTS.items()},
}

FORM = Form(
    activations=Activations(key="identity", erase="one", add="identity"),
    sharpening="power",
    sharpening_epsilon=1e-16,
    heads_see="cell",
    start="given",
)


def convert(arrays: Arrays, _settings: Settings) -> NTM:
    """The step. Raises SourceFault."""
    sizes = expect_layout(arrays, LAYOUT, of=PROGRAM.name)
    slots, width = sizes["N"], sizes["M"]

    def projection(name: str) -> Projection:
        return Projection(arrays[f"{name}.weight"], arrays[f"{name}.bias"])

    def head(at: int) -> Head:
        key, strength, gate, shift, exponent = (projection(f"heads.{at}.{part}") for part in HEAD)
        # The program correlates where the paper convolves, so its first weight is that of the offset +1.
        return Head(key, strength, gate, shift.reversed(), exponent)

    lstm = "controller.controller_net"
    return ntm_of(
        NTMOptions(
            inputs=sizes["I"], outputs=sizes["O"], controller="lstm", controller_size=sizes["C"], slots=slots,
            width=width, form=FORM,
        ),
        NTMWeights(
            controller=torch_lstm(
                Projection(arrays[f"{lstm}.weight_ih"], arrays[f"{lstm}.bias_ih"]),
                Projection(arrays[f"{lstm}.weight_hh"], arrays[f"{lstm}.bias_hh"]),
            ),
            heads=(head(0), head(1)),
            erase=None,
            add=projection("heads.1.write_data_fc"),
            output=projection("controller.out_net"),
            first={
                "memory": sigmoid(arrays["memory.memory_bias_fc.bias"]).reshape(slots, width),
                "read_weighting": np.zeros((1, slots)),
                "write_weighting": np.zeros((1, slots)),
                "read_vector": np.zeros((1, width)),
                "controller_h": arrays["controller.h_bias_fc.bias"],
                "controller_c": arrays["controller.c_bias_fc.bias"],
            },
        ),
    )  # fmt: skip


PROGRAM = Program(
    name="vlgiitr",
    repository="https://github.com/vlgiitr/ntm-pytorch",
    licence="MIT, Copyright (c) 2018 Karan Desai",
    tasks={"copy": "copy-started", "associative-recall": "associative-recall"},
    convert=convert,
    # A read adds up memories without bounds.
    tolerance=1e-4,
)
