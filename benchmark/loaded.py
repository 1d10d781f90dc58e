"""What a process imports whose copies train (`benchmark.engine.forking`): all that they need."""

from benchmark.streams import silent

# The process of the command imports the same, and tells what there is to tell.
with silent():
    from benchmark import running

    running.discover()
