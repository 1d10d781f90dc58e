"""One training in several processes, which `torchrun` has started; the numbers are those of one."""
