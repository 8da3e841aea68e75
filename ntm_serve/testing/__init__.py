"""For tests, ours and users': models with and without state that can be checked by hand, a gate that holds their
runs, a clock that is moved by hand, and a real server inside the test's process.
"""

from ntm_serve.testing.clock import ManualClock
from ntm_serve.testing.doubling import Doubling
from ntm_serve.testing.gate import Gate
from ntm_serve.testing.running_sum import RunningSum
from ntm_serve.testing.server import TestServer, test_server

__all__ = ["Doubling", "Gate", "ManualClock", "RunningSum", "TestServer", "test_server"]
