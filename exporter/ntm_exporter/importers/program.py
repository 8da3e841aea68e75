"""A program whose trained weights can be imported, and what its importer gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ntm_exporter.errors import SourceFault
from ntm_exporter.importers.arrays import Arrays
from ntm_models.dnc import DNC
from ntm_models.ntm import NTM


@dataclass(frozen=True)
class Settings:
    """What the user may say of a file that the file does not. activations: which of a program's sets the weights
    were trained with. slots: of a memory whose weights fit any number.
    """

    activations: str | None = None
    slots: int | None = None


@dataclass(frozen=True)
class Program:
    """Where weights come from. tasks: what the program calls a task, and which of ours that is. convert: from the
    arrays of a file to the step with its weights and its first state; raises SourceFault. activations: its sets, one
    of which has to be named. free_slots: whether the number of slots can be chosen. unused: arrays that its files have
    and a step does not need. tolerance: how far one step may differ from torch, where the user does not say.
    """

    name: str
    repository: str
    licence: str
    tasks: Mapping[str, str]
    convert: Callable[[Arrays, Settings], NTM | DNC]
    activations: tuple[str, ...] = ()
    free_slots: bool = False
    unused: frozenset[str] = frozenset()
    tolerance: float = 1e-5

    def task(self, asked: str | None) -> str:
        """The program's own task, or its only one. Raises SourceFault."""
        if asked is None and len(self.tasks) == 1:
            return next(iter(self.tasks))
        if asked is None or asked not in self.tasks:
            raise SourceFault(f"--task: {self.name}: expected one of {', '.join(self.tasks)}, got {asked or 'nothing'}")
        return asked

    def expect_settings(self, settings: Settings) -> None:
        """Refuse a setting that means nothing here, and the lack of one that does. Raises SourceFault."""
        if self.activations and settings.activations not in self.activations:
            given = settings.activations or "nothing, and no file says which"
            raise SourceFault(f"--activations: {self.name}: expected one of {', '.join(self.activations)}, got {given}")
        if not self.activations and settings.activations is not None:
            raise SourceFault(f"--activations: {self.name}: expected nothing, got {settings.activations}")
        if not self.free_slots and settings.slots is not None:
            raise SourceFault(f"--set slots: {self.name}: expected nothing, got {settings.slots}")
        if settings.slots is not None and settings.slots < 1:
            raise SourceFault(f"--set slots: expected at least 1, got {settings.slots}")
