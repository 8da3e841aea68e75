"""snipsco/ntm-lasagne: a feed-forward controller, one read and one write head.

Its step begins by writing with what the step before decided, reads with the read weighting of the step before, and
ends with new weightings. Told from one write to the next it is ours with reads after the write: controller, addresses,
write, read. So a state here is one write ahead of the program's, and the first write belongs to the first state.
"""

import numpy as np

from ntm_exporter.importers.arrays import Arrays, expect_layout
from ntm_exporter.importers.ntm_weights import Head, NTMWeights, Projection, hard_sigmoid, ntm_of
from ntm_exporter.importers.program import Program, Settings
from ntm_models.ntm import NTM, Activations, Form, NTMOptions

HEAD = {"key": "M", "beta": "1", "gate": "1", "shift": "3", "gamma": "1"}

LAYOUT = {
    "memory_init": "N M",
    "hid_init": "1 C",
    "W_in_to_hid": "I C",
    "b_in_to_hid": "C",
    "W_reads_to_hid": "M C",
    "b_reads_to_hid": "C",
    "dense_W": "C O",
    "dense_b": "O",
    **{f"{head}.weights_init": "1 N" for head in ("read", "write")},
    **{f"{head}.{part}_W": f"C {rows}" for head in ("read", "write") for part, rows in HEAD.items()},
    **{f"{head}.{part}_b": rows for head in ("read", "write") for part, rows in HEAD.items()},
    **{f"write.{part}_W": "C M" for part in ("erase", "add")},
    **{f"write.{part}_b": "M" for part in ("erase", "add")},
}

FORM = Form(
    activations=Activations(
        key="relu", strength="relu", gate="hard-sigmoid", exponent="1+relu", erase="hard-sigmoid", add="relu"
    ),
    similarity="cosine-root",
    shift="zero-padded",
    reads="after-write",
    output_sees="controller",
    start="given",
)


def convert(arrays: Arrays, _settings: Settings) -> NTM:
    """The step. Raises SourceFault."""
    sizes = expect_layout(arrays, LAYOUT, of=PROGRAM.name)

    def projection(name: str) -> Projection:
        return Projection(arrays[f"{name}_W"].T, arrays[f"{name}_b"])

    def head(name: str) -> Head:
        return Head(*(projection(f"{name}.{part}") for part in HEAD))

    erase, add = projection("write.erase"), projection("write.add")
    h, attended = arrays["hid_init"][0], arrays["write.weights_init"].T
    memory = arrays["memory_init"] * (1 - attended * hard_sigmoid(erase.weight @ h + erase.bias))
    memory += attended * np.maximum(add.weight @ h + add.bias, 0)
    return ntm_of(
        NTMOptions(
            inputs=sizes["I"], outputs=sizes["O"], controller_size=sizes["C"], slots=sizes["N"], width=sizes["M"],
            form=FORM,
        ),
        NTMWeights(
            controller={
                "hidden.weight": np.concatenate([arrays["W_in_to_hid"], arrays["W_reads_to_hid"]]).T,
                "hidden.bias": arrays["b_in_to_hid"] + arrays["b_reads_to_hid"],
            },
            heads=(head("read"), head("write")),
            erase=erase,
            add=add,
            output=projection("dense"),
            first={
                "memory": memory,
                "read_weighting": arrays["read.weights_init"],
                "write_weighting": arrays["write.weights_init"],
                "read_vector": arrays["read.weights_init"] @ memory,
            },
        ),
    )  # fmt: skip


PROGRAM = Program(
    name="ntm-lasagne",
    repository="https://github.com/snipsco/ntm-lasagne",
    licence="MIT, Copyright (c) 2015-2016 Tristan Deleu",
    tasks={
        "copy": "copy-ended",
        "repeat-copy": "repeat-copy-unary",
        "associative-recall": "associative-recall-wide",
        "dyck-words": "dyck-words",
    },
    convert=convert,
    unused=frozenset({"controller_kind"}),
    # Exponents and memories without bounds: sharpening multiplies the rounding of a logarithm, reading that again.
    tolerance=1e-3,
)
