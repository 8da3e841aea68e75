"""The log of sessions: one line for each change of a session's state, and none for a step.

Rules of this file: a line has the change as its event, and the session, its model and its next step as fields; where
lines are not asked for they are of level debug, and cost a call that does nothing.
"""

from collections.abc import Sequence
from typing import Any

import structlog

from ntm_serve.step_model import ModelKey

# Why a session left memory, and what that is called where it is not merely "left memory".
LEAVING = {"wanted": "handed over"}


class SessionLog:
    """Of one server."""

    def __init__(self, *, on: bool = False) -> None:
        """on: whether lines are of level info."""
        logger = structlog.get_logger().bind()
        self._write = logger.info if on else logger.debug

    def changed(self, change: str, session_id: str, model: ModelKey, step: int, **facts: Any) -> None:
        """Something became of a session, which made so many steps."""
        self._write(f"session {change}", session=session_id, model=str(model), step=step, **facts)

    def expired_in_store(self, session_ids: Sequence[str]) -> None:
        """Sessions ended that no server had in memory; more of them is not known here."""
        for session_id in session_ids:
            self._write("session expired", session=session_id, in_store=True)

    def left(self, session_id: str, model: ModelKey, step: int, *, reason: str) -> None:
        """A session left memory, and is in the store."""
        self.changed(LEAVING.get(reason, "left memory"), session_id, model, step, reason=reason)
