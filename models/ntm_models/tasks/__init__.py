"""Tasks: seeded generators and scorers in numpy alone, so that a demo and an evaluation need no torch."""

from ntm_models.tasks.copy import Copy
from ntm_models.tasks.episode import Episodes

TASKS = {"copy": Copy}

__all__ = ["TASKS", "Copy", "Episodes"]
