"""What an export can be refused for. Every refusal leaves the target as it was.

    ExportFault
    ├── SourceFault      the file, function, recipe or weights cannot be loaded
    ├── ContractFault    the step does not keep the step contract
    ├── TraceFault       the step has no ONNX graph that serves every batch size
    └── ProofFault       the graph is not the same function as the step
        ├── ParityFault      one step differs by more than the tolerance
        ├── ScoreFault       the task's score differs
        └── NonFiniteFault   a step gave NaN or infinity

A place that the model directory cannot be written to is a SettingsFault of ntm_serve. Messages name the thing, the
expected and the actual.
"""


class ExportFault(Exception):
    """The root."""


class SourceFault(ExportFault):
    """A file, function, recipe or file of weights that cannot be loaded."""


class ContractFault(ExportFault):
    """A step that does not keep the step contract."""


class TraceFault(ExportFault):
    """A step that has no ONNX graph, or none whose batch size is free."""


class ProofFault(ExportFault):
    """A graph that is not the same function as its step."""


class ParityFault(ProofFault):
    """One step of the graph differs from torch's by more than the tolerance."""


class ScoreFault(ProofFault):
    """The task's score through the server's engine differs from torch's."""


class NonFiniteFault(ProofFault):
    """A step gave NaN or infinity on inputs of its own example."""
