"""Starts the training processes of a node, passes on what they print, and reaps them: what PID 1 of a container must do."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

from . import channel

LINE_LIMIT = 8192
TAIL_LINES = 60
HELPERS = 2.0
MEMORY_EVENTS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


def oom_kills():
    """How often the kernel killed a process of this container for its memory."""
    for path in MEMORY_EVENTS:
        try:
            for line in path.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
        except (OSError, ValueError):
            continue
    return 0


def processors(cpu_max="/sys/fs/cgroup/cpu.max", older="/sys/fs/cgroup/cpu/cpu.cfs_"):
    """How many processors this container may use."""
    try:
        quota, period = Path(cpu_max).read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = (Path(f"{older}{name}_us").read_text().strip() for name in ("quota", "period"))
        except OSError:
            quota, period = "max", "1"
    available = float(len(os.sched_getaffinity(0)))
    return min(available, int(quota) / int(period)) if quota.isdigit() else available


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rank_environment(environment, plan, node_rank, local_rank, port):
    """What the engine's launcher would set; without it every start is one import of the engine cheaper."""
    found = {
        **environment,
        "RANK": str(node_rank * plan.processes + local_rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(plan.world_size),
        "LOCAL_WORLD_SIZE": str(plan.processes),
        "NODE_RANK": str(node_rank),
        "PYTHONUNBUFFERED": "1",
    }
    if plan.nodes == 1:
        # The name of a pod's Service need not resolve for a single node.
        found["MASTER_ADDR"] = "127.0.0.1"
        found["MASTER_PORT"] = str(port)
    # Libraries count the machine's processors, not those that the container may use.
    found.setdefault("OMP_NUM_THREADS", str(max(1, int(processors() // plan.processes))))
    return found


class Output:
    """Lines of all processes: without credentials to our own output, and the last of them kept."""

    def __init__(self, redact):
        self.redact = redact
        self.lines = deque(maxlen=TAIL_LINES)
        self.lock = threading.Lock()

    def write(self, line):
        line = self.redact(line.rstrip())
        with self.lock:
            self.lines.append(line)
            try:
                print(line, flush=True)
            except OSError:
                pass

    def pump(self, stream, prefix):
        with stream:
            while line := stream.readline(LINE_LIMIT):
                text = line.decode(errors="replace")
                # A progress bar rewrites its line: only what it ended with is worth a line of a log.
                text = text.rstrip("\r\n").rsplit("\r", 1)[-1]
                if text:
                    self.write(prefix + text)

    def tail(self):
        with self.lock:
            return "\n".join(self.lines)


class Process:
    """One training process, in a session of its own so that its helpers end with it."""

    def __init__(self, rank, command, environment, folder, output, inbox):
        mine, theirs = channel.pair()
        with theirs:
            environment = {**environment, channel.VARIABLE: str(theirs.fileno())}
            self.child = subprocess.Popen(
                command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, pass_fds=(theirs.fileno(),), start_new_session=True,
            )
        self.rank, self.status = rank, None
        prefix = "" if rank == 0 else f"[rank {rank}] "
        self.pump = threading.Thread(target=output.pump, args=(self.child.stdout, prefix), daemon=True)
        self.reader = threading.Thread(target=self.read, args=(mine, inbox), daemon=True)
        self.pump.start()
        self.reader.start()

    def read(self, end, inbox):
        with end:
            for packet in channel.receive(end):
                inbox.put((packet.get("kind"), self.rank, packet))

    def signal(self, number):
        if self.status is None:
            try:
                os.kill(self.child.pid, number)
            except ProcessLookupError:
                pass

    def kill_all(self):
        """The process and what it started: loader processes hold its output open."""
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass

    def ended(self, status):
        """Record the end; a code as shells have it, 128 and the number for a signal."""
        code = os.waitstatus_to_exitcode(status)
        self.status = code if code >= 0 else 128 - code
        self.child.returncode = code
        # Helpers see the end by themselves and clean up; the output is closed once the last of them is gone.
        self.pump.join(HELPERS)
        self.kill_all()
        self.pump.join(HELPERS)
        self.reader.join(HELPERS)


def reap(processes):
    """Collect every ended child, also adopted ones."""
    by_pid = {process.child.pid: process for process in processes}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid in by_pid:
            by_pid[pid].ended(status)


def leave(code):
    """End at once: exit handlers and threads of libraries may wait for a service that is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def worker_command(train_json):
    return [sys.executable, "-m", "finetune_llmfoundry", "worker", "--plan", str(train_json)]
