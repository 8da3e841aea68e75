"""For tests, ours and users': a step model that can be checked by hand, a gate that holds its runs, a clock
that is moved by hand, and a real server inside the test's process.
"""

from ntm_serve.testing.clock import ManualClock
from ntm_serve.testing.gate import Gate
from ntm_serve.testing.running_sum import RunningSum
from ntm_serve.testing.server import TestServer, test_server

__all__ = ["Gate", "ManualClock", "RunningSum", "TestServer", "test_server"]
