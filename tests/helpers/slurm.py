"""A real Slurm of one node, for tests: controller, node and authentication, in a folder of its own.

Where the machine has no Slurm, Debian's packages are unpacked into that folder; nothing is
installed, and the user need not be root.
"""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

PACKAGES = (
    'slurmctld', 'slurmd', 'slurm-client', 'slurm-wlm-basic-plugins', 'munge', 'libmunge2',
    'libhwloc15', 'liblua5.1-0', 'libltdl7',
)  # fmt: skip
"""What Debian's Slurm consists of, and libraries that a small machine may lack."""

PATIENCE = 20.0
"""Seconds in which the node must be ready."""


class Unavailable(Exception):
    """There is no Slurm on this machine, and none can be had."""


def unpacked(folder):
    """Unpacks Debian's packages of Slurm into a folder and returns the root of their files."""
    if shutil.which('apt-get') is None or shutil.which('dpkg-deb') is None:
        raise Unavailable('expected Slurm, or apt-get and dpkg-deb to fetch it')
    archives, root = folder / 'archives', folder / 'root'
    (archives / 'partial').mkdir(parents=True)
    (lists := folder / 'lists' / 'partial').mkdir(parents=True)
    fetch = ['apt-get', '-q', '-o', f'Dir::Cache::archives={archives}', '-o', 'Debug::NoLocking=1']
    download = ['install', '--reinstall', '--download-only', '--no-install-recommends', '--yes']
    done = said([*fetch, *download, *PACKAGES])
    if done.returncode:  # the lists of packages are missing, or are too old
        fetch += ['-o', f'Dir::State::lists={lists.parent}']
        said([*fetch, 'update'])
        done = said([*fetch, *download, *PACKAGES])
    if done.returncode:
        raise Unavailable(f'Slurm cannot be fetched: {done.stderr.strip()[-200:]}')
    for package in sorted(archives.glob('*.deb')):
        subprocess.run(['dpkg-deb', '--extract', package, root], check=True)
    return root


def said(words):
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def port():
    """Returns a port that is free now."""
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return found.getsockname()[1]


CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller}
SlurmdPort={node}
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
ReturnToService=2
KillWait=1
CompleteWait=0
MpiDefault=none
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=1 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=2
"""


REAPER = """
import os, shutil, sys
from pathlib import Path
folder, mark = sys.argv[1], f'SLURM_CONF={sys.argv[1]}/slurm.conf'.encode()
sys.stdin.read()  # until the process that started this one has ended, however it ended
for environment in Path('/proc').glob('[0-9]*/environ'):
    try:
        if mark in environment.read_bytes().split(b'\\0'):
            os.kill(int(environment.parts[2]), 9)
    except OSError:
        continue
shutil.rmtree(folder, ignore_errors=True)
"""
"""Ends whatever has the configuration of a folder in its environment, and removes the folder."""


class Cluster:
    """A running Slurm; `environment` is what its commands need.

    Args:
        folder: Takes its files.
    """

    def __init__(self, folder):
        self.folder, self.processes = folder, []
        path = [*os.environ['PATH'].split(os.pathsep), '/usr/sbin', '/sbin']
        libraries = ''
        self.root = None
        if shutil.which('slurmctld', path=os.pathsep.join(path)) is None:
            self.root = unpacked(folder)
            path = [f'{self.root}/usr/bin', f'{self.root}/usr/sbin', *path]
            below = next(self.root.glob('usr/lib/*/slurm-wlm'))
            libraries = f'{below.parent}:{below}'
        self.environment = {
            'PATH': os.pathsep.join(path),
            'SLURM_CONF': str(folder / 'slurm.conf'),
        }
        if libraries:
            self.environment['LD_LIBRARY_PATH'] = libraries

        self.reaper = subprocess.Popen(
            [sys.executable, '-c', REAPER, str(folder)], stdin=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip

    def start(self):
        """Starts the three services and waits until the node takes jobs."""
        host = socket.gethostname().partition('.')[0]
        config = CONFIG.format(
            host=host, user=getpass.getuser(), controller=port(), node=port(), folder=self.folder
        )
        if self.root:
            config += f'PluginDir={next(self.root.glob("usr/lib/*/slurm-wlm"))}\n'
        (self.folder / 'slurm.conf').write_text(config)
        for name in ('state', 'spool'):
            (self.folder / name).mkdir()
        key = self.folder / 'munge.key'
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = [f'--{x}-file={self.folder}/munge.{x}' for x in ('key', 'pid', 'log', 'seed')]
        munge = ['munged', '--foreground', '--force', f'--socket={self.folder}/munge.socket']
        self.service([*munge, *files])
        self.until(lambda: (self.folder / 'munge.socket').exists(), 'munged')
        self.service([self.program('slurmctld'), '-D', '-i'])
        step = shutil.which(self.program('slurmstepd'), path=self.environment['PATH'])
        self.service([self.program('slurmd'), '-D', '-d', step or 'slurmstepd'])
        self.until(lambda: 'idle' in self.ask('sinfo', '--noheader', '--format=%T'), 'slurmd')

    def program(self, name):
        """Returns the name under which a program of Slurm was unpacked."""
        return f'{name}-wlm' if self.root else name

    def service(self, words):
        path = shutil.which(words[0], path=self.environment['PATH'])
        with (self.folder / 'services.log').open('ab') as log:
            process = subprocess.Popen(
                [path, *words[1:]], env={**os.environ, **self.environment}, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self.processes.append(process)

    def ask(self, *words):
        """Returns what a command of Slurm prints."""
        path = shutil.which(words[0], path=self.environment['PATH'])
        return said_by([path, *words[1:]], self.environment)

    def until(self, happened, what):
        """Waits until something has happened."""
        until = time.monotonic() + PATIENCE
        while not happened():
            if time.monotonic() > until or any(p.poll() is not None for p in self.processes):
                logs = sorted(self.folder.glob('*.log'))
                told = '\n'.join(log.read_text(errors='replace')[-1000:] for log in logs)
                raise RuntimeError(f'{what} did not start:\n{told}')
            time.sleep(0.05)

    def stop(self):
        """Ends all jobs, then the services; nothing is left running."""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            self.ask('scancel', '--user', getpass.getuser())
            self.ask('scancel', '--user', getpass.getuser(), '--signal=KILL')
            self.until(lambda: not self.ask('squeue', '--noheader'), 'the end of the jobs')
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.reaper.communicate()


def said_by(words, environment):
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    return done.stdout


@contextlib.contextmanager
def cluster(folder: Path):
    """Runs a Slurm of one node until the block ends, however it ends."""
    found = Cluster(folder)
    try:
        found.start()
        yield found
    finally:
        found.stop()
