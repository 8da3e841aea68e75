"""What a session outlives, in one word."""

from enum import StrEnum


class Durability(StrEnum):
    """memory: it lives as long as the server. process: a reply is sent once its steps are in the store, so they
    outlive the process. disk: once they are on the store's disk, so they outlive the loss of power.
    """

    MEMORY = "memory"
    PROCESS = "process"
    DISK = "disk"
