"""A program that runs a command in a process forked from the tests, wherever it is started.

A new process takes five seconds of computing to import the libraries; a forked one has them. The
process ends with the program, however that ends.
"""

import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading

PROGRAM = """#!{python}
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [json.dumps([sys.argv[1:], os.getcwd()]).encode()], [1, 2])
    sys.exit(server.recv(1)[0])
"""


@contextlib.contextmanager
def program(folder, main):
    """Makes a program in a folder, which works until the block ends.

    Args:
        folder: Takes the program, and a socket, whose path may have 108 characters.
        main: Takes the arguments of the program and returns its exit status.
    """
    made, address = folder / 'forked', str(folder / 'forked.socket')
    made.write_text(PROGRAM.format(python=sys.executable, address=address))
    made.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        server = multiprocessing.get_context('fork').Process(target=_serve, args=(listener, main))
        server.start()
        try:
            yield made
        finally:
            server.kill()
            server.join()


def _end_with_parent():
    """Ends this process when the one that forked it ends, however it ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _serve(listener, main):
    _end_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            _run(connection, main)
        connection.close()


def _run(connection, main):
    _end_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    asked, streams, _, _ = socket.recv_fds(connection, 1 << 16, 2)
    words, folder = json.loads(asked)
    for stream, own in zip(streams, (1, 2), strict=True):
        os.dup2(stream, own)
    sys.stdout, sys.stderr = os.fdopen(1, 'w'), os.fdopen(2, 'w')
    os.chdir(folder)
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    status = 1
    try:
        status = main(words)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send(bytes([status]))
        os._exit(status)


def _end_with(connection):
    connection.recv(1)
    os._exit(1)
