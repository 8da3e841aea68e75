"""Weights that other programs trained, as sources of an export: from named arrays to the one NTM or DNC step.

An importer knows one program: the names and shapes of its arrays, the form of its step, and how it encodes its tasks.
What is exported is proved like any other model.
"""

import hashlib
from pathlib import Path

from ntm_exporter.errors import SourceFault
from ntm_exporter.importers import carpedm20, dnc_tensorflow, ntm_lasagne, pytorch_ntm, vlgiitr
from ntm_exporter.importers.arrays import read_arrays
from ntm_exporter.importers.program import Program, Settings
from ntm_exporter.source import Source, TaskExample
from ntm_models.tasks import TASKS

PROGRAMS = {
    program.name: program
    for program in (
        ntm_lasagne.PROGRAM, vlgiitr.PROGRAM, carpedm20.PROGRAM, dnc_tensorflow.PROGRAM, pytorch_ntm.PROGRAM,
    )
}  # fmt: skip

NOTHING_SAID = Settings()

__all__ = ["PROGRAMS", "Program", "Settings", "import_source", "provenance_of"]


def import_source(name: str, file: Path, task: str | None = None, settings: Settings = NOTHING_SAID) -> Source:
    """The step of a program's file with its weights, and the task in the program's encoding. Raises SourceFault."""
    program = program_of(name)
    program.expect_settings(settings)
    asked = program.task(task)
    arrays = read_arrays(file, program.unused)
    try:
        step = program.convert(arrays, settings)
    except SourceFault as fault:
        raise SourceFault(f"{file}: {fault}") from fault
    encoded = program.tasks[asked]
    scored = TASKS[encoded]()
    actual = (step.options.inputs, step.options.outputs)
    if actual != (scored.inputs, scored.outputs):
        raise SourceFault(
            f"{file}: --task {asked}: expected {scored.inputs} inputs and {scored.outputs} outputs, "
            f"got {actual[0]} and {actual[1]}"
        )
    return Source(
        name=f"{name}-{asked}",
        step=step,
        example_inputs=TaskExample(scored),
        family=step.family,
        task=encoded,
        roles={name: role for name, role in step.roles.items() if name in step.initial_state()},
        scored=scored,
    )


def program_of(name: str) -> Program:
    """The program by its name. Raises SourceFault."""
    if name not in PROGRAMS:
        raise SourceFault(f"import: expected one of {', '.join(PROGRAMS)}, got {name!r}")
    return PROGRAMS[name]


def provenance_of(name: str, file: Path, settings: Settings = NOTHING_SAID) -> str:
    """Where the weights come from, for the manifest: the repository, the file and what was said of it."""
    said = [f"{key} {value}" for key, value in vars(settings).items() if value is not None]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return ", ".join([program_of(name).repository, f"{file.name} (sha256 {digest})", *said])
