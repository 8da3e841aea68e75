"""loudinthecloud/pytorch-ntm: an LSTM, a read and a write head, each with its parameters in one projection.

Its first weights, of 2017, were trained with other activations than its later code has, and no file says which.
"""

from dataclasses import replace

import numpy as np

from ntm_exporter.importers.arrays import Arrays, expect_layout
from ntm_exporter.importers.ntm_weights import Head, NTMWeights, Projection, ntm_of, torch_lstm
from ntm_exporter.importers.program import Program, Settings
from ntm_models.ntm import NTM, Activations, Form, NTMOptions

LAYOUT = {
    "ntm.memory.mem_bias": "N M",
    "ntm.read0_bias": "1 M",
    "ntm.controller.lstm_h_bias": "1 1 C",
    "ntm.controller.lstm_c_bias": "1 1 C",
    "ntm.controller.lstm.weight_ih_l0": "4C I+M",
    "ntm.controller.lstm.weight_hh_l0": "4C C",
    "ntm.controller.lstm.bias_ih_l0": "4C",
    "ntm.controller.lstm.bias_hh_l0": "4C",
    "ntm.heads.0.fc_read.weight": "M+6 C",
    "ntm.heads.0.fc_read.bias": "M+6",
    "ntm.heads.1.fc_write.weight": "3M+6 C",
    "ntm.heads.1.fc_write.bias": "3M+6",
    "ntm.fc.weight": "O C+M",
    "ntm.fc.bias": "O",
}

ACTIVATIONS = {
    "2017": Activations(
        key="relu", strength="relu", shift="softmax-relu", exponent="1+relu", erase="relu", add="relu"
    ),
    "current": Activations(key="identity", add="identity"),
}  # fmt: skip

FORM = Form(sharpening="power", sharpening_epsilon=1e-16, start="given")


def convert(arrays: Arrays, settings: Settings) -> NTM:
    """The step. Raises SourceFault."""
    assert settings.activations is not None
    sizes = expect_layout(arrays, LAYOUT, of=PROGRAM.name)
    slots, width = sizes["N"], sizes["M"]

    def rows(name: str, *lengths: int) -> list[Projection]:
        """A projection cut into as many rows each."""
        ends = np.cumsum(lengths)[:-1]
        weights, biases = np.split(arrays[f"{name}.weight"], ends), np.split(arrays[f"{name}.bias"], ends)
        return [Projection(weight, bias) for weight, bias in zip(weights, biases, strict=True)]

    def head(key: Projection, strength: Projection, gate: Projection, shift: Projection, exponent: Projection) -> Head:
        # The program correlates where the paper convolves, so its first weight is that of the offset +1.
        return Head(key, strength, gate, shift.reversed(), exponent)

    reading = rows("ntm.heads.0.fc_read", width, 1, 1, 3, 1)
    *writing, erase, add = rows("ntm.heads.1.fc_write", width, 1, 1, 3, 1, width, width)
    lstm = "ntm.controller.lstm"
    return ntm_of(
        NTMOptions(
            inputs=sizes["I"], outputs=sizes["O"], controller="lstm", controller_size=sizes["C"], slots=slots,
            width=width, form=replace(FORM, activations=ACTIVATIONS[settings.activations]),
        ),
        NTMWeights(
            controller=torch_lstm(
                Projection(arrays[f"{lstm}.weight_ih_l0"], arrays[f"{lstm}.bias_ih_l0"]),
                Projection(arrays[f"{lstm}.weight_hh_l0"], arrays[f"{lstm}.bias_hh_l0"]),
            ),
            heads=(head(*reading), head(*writing)),
            erase=erase,
            add=add,
            output=Projection(arrays["ntm.fc.weight"], arrays["ntm.fc.bias"]),
            first={
                "memory": arrays["ntm.memory.mem_bias"],
                "read_weighting": np.zeros((1, slots)),
                "write_weighting": np.zeros((1, slots)),
                "read_vector": arrays["ntm.read0_bias"],
                "controller_h": arrays["ntm.controller.lstm_h_bias"][0, 0],
                "controller_c": arrays["ntm.controller.lstm_c_bias"][0, 0],
            },
        ),
    )  # fmt: skip


PROGRAM = Program(
    name="pytorch-ntm",
    repository="https://github.com/loudinthecloud/pytorch-ntm",
    licence="BSD-3-Clause, Copyright (c) 2017 Guy Zana",
    tasks={"copy": "copy"},
    convert=convert,
    activations=tuple(ACTIVATIONS),
    # The same memory under the names of the modules that share it.
    unused=frozenset({"memory.mem_bias", "ntm.heads.0.memory.mem_bias", "ntm.heads.1.memory.mem_bias"}),
)
