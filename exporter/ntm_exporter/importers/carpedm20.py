"""carpedm20/NTM-tensorflow: an LSTM with its gates stored apart; the output sees the controller alone.

Its names are crossed: what it calls the output is the LSTM's h, what it calls hidden is the cell. A session's first
state is learned as functions of one stored number.
"""

import numpy as np
from numpy.typing import NDArray

from ntm_exporter.importers.arrays import Arrays, expect_layout
from ntm_exporter.importers.ntm_weights import Head, NTMWeights, Projection, ntm_of, softmax
from ntm_exporter.importers.program import Program, Settings
from ntm_models.ntm import NTM, Activations, Form, NTMOptions

HEAD = {"k": "M", "beta": "1", "g": "1", "s_w": "3", "gamma": "1"}
GATES = ("input", "forget", "output", "update")  # In the order of our LSTM.

FIRST = {
    "M_init_linear": "NM", "read_init_0": "M", "read_w_0": "N", "write_w_0": "N", "output_init_0": "C",
    "hidden_init_0": "C",
}  # fmt: skip
# The program makes a first output too, which no step sees.
UNSEEN = {"new_output": "O"}

LAYOUT = {
    "NTM|output|Linear|output_w": "C O",
    "NTM|output|Linear|output_b": "O",
    "NTM|memory|read|k|Linear|k_0_w": "C M",
    **{f"NTM|controller|{gate}_gate_0|Matrix": "I+M+C C" for gate in GATES},
    **{f"NTM|controller|{gate}_gate_0|Bias": "C" for gate in GATES},
    **{f"NTM|init_cell|Linear|{name}_w": f"1 {size}" for name, size in (FIRST | UNSEEN).items()},
    **{f"NTM|init_cell|Linear|{name}_b": size for name, size in (FIRST | UNSEEN).items()},
    "NTM|init_cell|Variable": "1 1",
    **{f"NTM|memory|{h}|{p}|Linear|{p}_0_w": f"C {rows}" for h in ("read", "write") for p, rows in HEAD.items()},
    **{f"NTM|memory|{h}|{p}|Linear|{p}_0_b": rows for h in ("read", "write") for p, rows in HEAD.items()},
    **{f"NTM|memory|write|Linear|{part}_0_w": "C M" for part in ("erase", "add")},
    **{f"NTM|memory|write|Linear|{part}_0_b": "M" for part in ("erase", "add")},
}

FORM = Form(
    activations=Activations(),
    similarity_epsilon=1e-3,
    # The program has no epsilon here; this one keeps the logarithm defined and is far below a weight that counts.
    sharpening_epsilon=1e-12,
    output_sees="controller",
    start="given",
)


def convert(arrays: Arrays, _settings: Settings) -> NTM:
    """The step. Raises SourceFault."""
    sizes = expect_layout(arrays, LAYOUT, of=PROGRAM.name)
    slots, width, inputs = sizes["N"], sizes["M"], sizes["I"]
    number = arrays["NTM|init_cell|Variable"][0, 0]

    def projection(name: str) -> Projection:
        return Projection(arrays[f"{name}_w"].T, arrays[f"{name}_b"])

    def head(name: str) -> Head:
        return Head(*(projection(f"NTM|memory|{name}|{part}|Linear|{part}_0") for part in HEAD))

    def first(name: str) -> NDArray[np.float64]:
        linear = projection(f"NTM|init_cell|Linear|{name}")
        return np.asarray(number * linear.weight[:, 0] + linear.bias)

    def gate(name: str) -> NDArray[np.float64]:
        """Rows for [x, read, h]; the program's are for [x, h, read]."""
        x, h, read = np.split(arrays[f"NTM|controller|{name}_gate_0|Matrix"], [inputs, inputs + sizes["C"]])
        return np.concatenate([x, read, h]).T

    return ntm_of(
        NTMOptions(
            inputs=inputs, outputs=sizes["O"], controller="lstm", controller_size=sizes["C"], slots=slots, width=width,
            form=FORM,
        ),
        NTMWeights(
            controller={
                "gates.weight": np.concatenate([gate(name) for name in GATES]),
                "gates.bias": np.concatenate([arrays[f"NTM|controller|{name}_gate_0|Bias"] for name in GATES]),
            },
            heads=(head("read"), head("write")),
            erase=projection("NTM|memory|write|Linear|erase_0"),
            add=projection("NTM|memory|write|Linear|add_0"),
            output=projection("NTM|output|Linear|output"),
            first={
                "memory": np.tanh(first("M_init_linear")).reshape(slots, width),
                "read_weighting": softmax(first("read_w_0"))[np.newaxis],
                "write_weighting": softmax(first("write_w_0"))[np.newaxis],
                "read_vector": np.tanh(first("read_init_0"))[np.newaxis],
                "controller_h": np.tanh(first("output_init_0")),
                "controller_c": np.tanh(first("hidden_init_0")),
            },
        ),
    )  # fmt: skip


PROGRAM = Program(
    name="carpedm20",
    repository="https://github.com/carpedm20/NTM-tensorflow",
    licence="MIT, Copyright (c) 2016 Taehoon Kim",
    tasks={"copy": "copy-markers-first"},
    convert=convert,
    unused=frozenset({"Variable"}),
)
