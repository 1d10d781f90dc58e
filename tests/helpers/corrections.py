"""Corrected files, which data sets must not take for the files that they have seen before."""

import os


def rewrite(file, change):
    """Changes a file by `change(file)` and gives it its earlier time of modification again."""
    before = file.stat()
    change(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size


def flip(file):
    """Changes one bit of the last byte of a file, in a new file of the same size."""
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def check_fingerprint(opened, file, monkeypatch, change=flip):
    """Checks that a corrected file changes the fingerprint of the data that `opened()` opens.

    The file is corrected twice: at once, and after its content has been remembered.
    """
    from datasets.common.io import remembered

    for kept in (False, True):
        monkeypatch.setattr(remembered, 'SETTLED', 0 if kept else 2)
        before = opened().fingerprint
        assert opened().fingerprint == before
        rewrite(file, change)
        assert opened().fingerprint != before
