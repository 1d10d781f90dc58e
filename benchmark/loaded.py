"""What a process imports whose copies train (`benchmark.engine.forking`): all that they need."""

import signal

# An interruption from the terminal reaches all processes; the first one ends the others.
signal.signal(signal.SIGINT, signal.SIG_IGN)

from benchmark import running  # noqa: E402

running.discover()
