"""What a process imports whose copies train (`benchmark.engine.forking`): all that they need."""

import signal

from benchmark.streams import silent

# An interruption from the terminal reaches all processes; the first one ends the others.
signal.signal(signal.SIGINT, signal.SIG_IGN)

# The process of the command imports the same, and tells what there is to tell.
with silent():
    from benchmark import running

    running.discover()
