"""Work that is much is done on another thread, and its error is the caller's."""

import threading

import pytest

from ntm_serve.offload import HERE_BYTES_MAX, offloaded


@pytest.mark.parametrize(("work_bytes", "here"), [(0, True), (HERE_BYTES_MAX - 1, True), (HERE_BYTES_MAX, False)])
async def test_only_what_is_much_leaves_the_event_loop(work_bytes, here):
    made_on = await offloaded(work_bytes, threading.get_ident)
    assert (made_on == threading.get_ident()) is here


@pytest.mark.parametrize("work_bytes", [0, HERE_BYTES_MAX])
async def test_its_error_is_the_callers(work_bytes):
    with pytest.raises(ZeroDivisionError):
        await offloaded(work_bytes, lambda: 1 // 0)
