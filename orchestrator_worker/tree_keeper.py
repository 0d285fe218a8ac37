"""The process between a worker and a command: it leaves nothing of the command's process tree behind.

Run as a script (``python -I -S tree_keeper.py``), never imported by the worker: it needs only the
standard library and starts in a few milliseconds. A worker thread cannot do its work: only
the death of a process tells a pipe's other end that the worker is gone, and only a
sub-reaper becomes the parent of those that the command let go of.

Descriptors: 0 is the control pipe, 1 and 2 become the command's output, the number in
``argv[1]`` is the report pipe. On the control pipe comes a header line
(``grace_ms length\\n``) with ``length`` bytes of NUL-separated fields (number of arguments,
arguments, ``NAME=value``...), then any number of lines with a moment, in milliseconds of the
monotonic clock: a worker that has not named a later one by then is frozen or cut off, and the
tree is killed. And at most one byte: ``T`` to end the tree (SIGTERM, after the grace time
SIGKILL), ``K`` to kill it at once. End of file means that the worker is gone.

Report lines: ``started PID``, then one of ``exit STATUS``, ``signal NUMBER``;
or ``error ERRNO`` alone when the program could not be started.
"""

import errno
import os
import select
import signal
import sys
import time

ORPHAN_GRACE_SECONDS = 0.5
"""Grace when the worker is gone: its successor may be about to run the same step."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38


def main() -> None:
    report = int(sys.argv[1])
    os.set_inheritable(report, False)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    os.set_blocking(wake_read, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, note_signal)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    spec = read_spec()
    if spec is None:
        return
    grace_seconds, arguments, environment = spec
    child, failure = start(arguments, environment)
    if failure:
        os.write(report, b"error %d\n" % failure)
        return
    os.write(report, b"started %d\n" % child)
    status = watch(child, grace_seconds, wake_read)
    kill_rest(child)
    if os.WIFSIGNALED(status):
        os.write(report, b"signal %d\n" % os.WTERMSIG(status))
    else:
        os.write(report, b"exit %d\n" % os.WEXITSTATUS(status))


def note_signal(number: int, frame: object) -> None:
    """Do nothing: the wake-up pipe has the number."""


def prctl(option: int, value: int) -> None:
    """Set a property of this process, where the system has it (Linux)."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415  # Elsewhere it would only cost time.

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def offer_to_oom_killer() -> None:
    """When memory runs out, have the system end this process and its children before any of ours."""
    if sys.platform == "linux":
        try:
            score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
            os.write(score, b"1000")
            os.close(score)
        except OSError:
            return  # A system without it still runs commands.


def read_spec() -> tuple[float, list[bytes], dict[bytes, bytes]] | None:
    """Read what to run; ``None`` when the worker went away first."""
    header = b""
    while not header.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return None
        header += byte
    grace_ms, length = (int(number) for number in header.split())
    body = b""
    while len(body) < length:
        chunk = os.read(0, min(65536, length - len(body)))
        if not chunk:
            return None
        body += chunk
    fields = body.split(b"\0")
    count = int(fields[0])
    environment = dict(field.split(b"=", 1) for field in fields[1 + count :])
    return grace_ms / 1000, fields[1 : 1 + count], environment


def start(arguments: list[bytes], environment: dict[bytes, bytes]) -> tuple[int, int]:
    """Start the command as the leader of its own session; return its id and 0, or 0 and the errno."""
    error_read, error_write = os.pipe()
    keeper = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            offer_to_oom_killer()
            # Without this a program with the set-uid bit could become one that we may not signal.
            prctl(PR_SET_NO_NEW_PRIVS, 1)
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != keeper:
                os._exit(127)
            os.execvpe(arguments[0], arguments, environment)  # noqa: S606  # The very purpose.
        except OSError as error:
            os.write(error_write, b"%d" % (error.errno or errno.EINVAL))
        except ValueError:  # An empty name of a program.
            os.write(error_write, b"%d" % errno.ENOENT)
        finally:
            os._exit(127)
    os.close(error_write)
    # The pipe closes by itself when the program starts.
    failure = os.read(error_read, 16)
    os.close(error_read)
    if failure:
        os.waitpid(child, 0)
        return 0, int(failure)
    return child, 0


def watch(child: int, grace_seconds: float, wake_read: int) -> int:
    """Wait until the command has ended, by itself or by order; return its wait status."""
    listening = [0, wake_read]
    kill_at: float | None = None
    fence_at: float | None = None
    digits = b""
    while True:
        status = reap(child)
        if status is not None:
            return status
        due = [moment for moment in (kill_at, fence_at) if moment is not None]
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        ready, _, _ = select.select(listening, [], [], timeout)
        if wake_read in ready and signal.SIGTERM in os.read(wake_read, 512) and kill_at is None:
            kill_at = end_politely(child, min(grace_seconds, ORPHAN_GRACE_SECONDS))
        if 0 in ready:
            told = os.read(0, 512)
            if not told:
                listening.remove(0)
            *moments, digits = (digits + told.translate(None, b"TK")).split(b"\n")
            fence_at = int(moments[-1]) / 1000 if moments else fence_at
            seconds = time_to_end(told, grace_seconds)
            if seconds is not None:
                ends_at = end_politely(child, seconds) if kill_at is None else time.monotonic() + seconds
                kill_at = ends_at if kill_at is None else min(kill_at, ends_at)
        if fence_at is not None and time.monotonic() >= fence_at:
            kill_at = time.monotonic()
            fence_at = None
        if kill_at is not None and time.monotonic() >= kill_at:
            signal_tree(child, signal.SIGKILL)
            kill_at = time.monotonic() + 0.05


def time_to_end(told: bytes, grace_seconds: float) -> float | None:
    """Say how much time the tree gets, after what the worker has told, to end; ``None``: it goes on."""
    if not told:
        return min(grace_seconds, ORPHAN_GRACE_SECONDS)
    if b"K" in told:
        return 0.0
    return grace_seconds if b"T" in told else None


def end_politely(child: int, grace_seconds: float) -> float:
    """Ask the tree to end, if there is time for it; return when to kill it."""
    if grace_seconds > 0:
        signal_tree(child, signal.SIGTERM)
    return time.monotonic() + grace_seconds


def reap(child: int) -> int | None:
    """Collect every process that has ended; return the command's status if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status


def kill_rest(child: int) -> None:
    """Kill what the command left running, whatever session it moved to, until nothing is left."""
    if sys.platform != "linux":
        signal_group(child, signal.SIGKILL)
        return
    while True:
        # Whoever was forked after the list was made has a parent on the list; once that one is
        # dead the newcomer is our child, so each round either finds more or ends.
        signal_tree(child, signal.SIGKILL)
        try:
            # One death is waited for, and those that came with it are collected: a list for each
            # of a thousand processes would take longer than all of their deaths.
            os.waitpid(-1, 0)
        except ChildProcessError:
            return
        reap(child)


def signal_tree(child: int, number: int) -> None:
    """Signal the command's process group, and every other that one of its descendants is in.

    Groups, since one whose members fork and end all the time has others by the time that
    its list is read. Nobody else can be in them: each was made by a descendant.
    """
    for group in {child, *(group for _, group in descendants())} - {os.getpgrp()}:
        signal_group(group, number)


def descendants() -> list[tuple[int, int]]:
    """List the processes below this one as (process, group); empty where there is no ``/proc``."""
    children: dict[int, list[tuple[int, int]]] = {}
    if sys.platform == "linux":
        with os.scandir("/proc") as entries:
            numbers = [int(entry.name) for entry in entries if entry.name.isdigit()]
        for pid in numbers:
            try:
                stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
            except FileNotFoundError:
                continue  # It has ended since it was listed.
            try:
                # The program's name stands in parentheses and may hold anything.
                fields = os.read(stat, 4096).rpartition(b")")[2].split()
            except ProcessLookupError:
                continue
            finally:
                os.close(stat)
            children.setdefault(int(fields[1]), []).append((pid, int(fields[2])))
    found = list(children.get(os.getpid(), []))
    for pid, _ in found:
        found.extend(children.get(pid, []))
    return found


def signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return  # Its last member has ended.


if __name__ == "__main__":
    main()
