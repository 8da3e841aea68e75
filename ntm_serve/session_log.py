"""The log of sessions: one line for each change of a session's state, and none for a step.

Rules of this file: a line has the change as its event, and the session, its model and its next step as fields; where
lines are not asked for, nothing is made of them.
"""

from collections.abc import Sequence
from typing import Any

import structlog

from ntm_serve.step_model import ModelKey

# Why a session left memory, and what that is called where it is not merely "left memory".
LEAVING = {"wanted": "handed over"}

log = structlog.get_logger()


class SessionLog:
    """Of one server."""

    def __init__(self, *, on: bool) -> None:
        self._on = on

    def changed(self, change: str, session_id: str, model: ModelKey, step: int, **facts: Any) -> None:
        """Something became of a session, which made so many steps."""
        if self._on:
            log.info(f"session {change}", session=session_id, model=str(model), step=step, **facts)

    def left(self, session_id: str, model: ModelKey, step: int, *, reason: str) -> None:
        """A session left memory, and is in the store."""
        self.changed(LEAVING.get(reason, "left memory"), session_id, model, step, reason=reason)

    def expired_in_store(self, session_ids: Sequence[str]) -> None:
        """Sessions ended that no server had in memory; more of them is not known here."""
        for session_id in session_ids if self._on else ():
            log.info("session expired", session=session_id, in_store=True)
