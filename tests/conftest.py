"""What every test needs of the process that it runs in."""

import signal

# A shell that starts us in the background has us ignore Ctrl-C, and so would all that we start and send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
