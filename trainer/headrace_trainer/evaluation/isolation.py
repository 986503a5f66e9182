"""Cuts a process off by Linux's namespaces, mounts and limits. Knows the kernel's calls, no grader.

`enter` once: namespaces of its own for users, processes, mounts, IPC and, unless allowed, network; a root in which only Python,
its libraries and named folders can be seen, and nothing written. `fork` then makes a process that is the first of a further
namespace, so that whatever it starts ends with it, and `seal` takes from that one all rights, and sets its limits.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from headrace_schemas.root_error import HeadraceError

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_NOSUID, _NODEV, _BIND, _REC, _PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
_DETACH = 2
_PDEATHSIG, _DUMPABLE, _SUBREAPER, _NO_NEW_PRIVS = 1, 4, 36, 38
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _ATTR_RDONLY = 442, -100, 0x8000, 0x1
_NOBODY = 65534
_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store"),
    *(f"/etc/{name}" for name in ("ld.so.cache", "alternatives", "passwd", "group", "nsswitch.conf", "localtime", "ssl")),
    *(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")),
)
_FOR_NETWORK = ("/etc/resolv.conf", "/etc/hosts", "/etc/pki", "/etc/ca-certificates")

_shown_in_tmp: list[str] = []  # by `enter`, and hidden by each new /tmp
_libc = ctypes.CDLL(None, use_errno=True)


class NotIsolated(HeadraceError):
    """The kernel, or what this process runs in, does not allow it; the message says what was refused."""


class Limits(NamedTuple):
    """Of one process: address space beyond what it has (bytes), processes and threads of its user here, CPU (seconds); `disk` is
    the largest file and all of /tmp (bytes)."""

    memory: int
    processes: int
    cpu: int
    disk: int


def probe() -> str | None:
    """Why a process could not be cut off here; None when it can. Asks in a process of its own."""
    program = "from headrace_trainer.evaluation.isolation import enter, fork; enter(); fork() or __import__('os')._exit(0)"
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return None if done.returncode == 0 else (done.stderr.splitlines() or ["?"])[-1].partition("NotIsolated: ")[2] or done.stderr


def enter(*, network: bool = False, visible: Iterable[str] = ()) -> None:
    """Goes on in a child that has left the surroundings for good, the first of its namespace of processes; what called waits for
    its end and ends the same way. `visible` are files and folders that can be read. NotIsolated, and then this process is good
    for nothing any more."""
    try:
        _enter_user_namespace(_NEWPID | _NEWNS | _NEWIPC | _NEWUTS | (0 if network else _NEWNET))
        if (child := os.fork()) != 0:
            _end_as(child)
        _call("prctl", _PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        wanted = [*_SYSTEM, *(_FOR_NETWORK if network else ()), *_python(), *visible]
        _change_root({os.path.abspath(path) for path in wanted if path} | {os.path.realpath(path) for path in wanted if path})
    except (OSError, AttributeError) as error:  # a C library without these calls is not Linux's
        raise NotIsolated(str(error)) from error


def fork() -> int:
    """As os.fork, but the child is the first process of a namespace: what it starts sees nobody else and ends when it does."""
    ours = os.open("/proc/self/ns/pid", os.O_RDONLY)
    try:
        _call("unshare", _NEWPID)
        if (child := os.fork()) != 0:
            _call("setns", ours, _NEWPID)  # or there could be no second one
        return child
    except OSError as error:
        raise NotIsolated(str(error)) from error
    finally:
        os.close(ours)


def seal(limits: Limits) -> None:
    """In a child of `fork`: a /tmp of its own, limits, and no rights. OSError when something is refused."""
    used = _address_space()
    _call("unshare", _NEWNS | _NEWIPC)
    kept = {path: os.open(path, os.O_PATH) for path in _shown_in_tmp}
    _mount("tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV, f"size={limits.disk},mode=1777")
    for path, covered in kept.items():
        _bind(path, path, f"/proc/self/fd/{covered}")
        os.close(covered)
    try:
        _mount("proc", "/proc", "proc", _NOSUID | _NODEV)
    except OSError:  # in containers that hide parts of it; then there is none rather than everybody's
        _mount("tmpfs", "/proc", "tmpfs", _NOSUID | _NODEV, "size=0,mode=555")
    os.chdir("/tmp")
    _limit(limits, used)
    resource.setrlimit(resource.RLIMIT_NPROC, (limits.processes, limits.processes))
    if os.getuid() == 0:  # whom neither that limit nor the mode of a file would hold
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    _drop_capabilities()
    _die_with_parent()


def limit(limits: Limits) -> None:
    """What needs no namespace: limits but that on processes, which would count all of the user's, and an end with its parent."""
    _limit(limits, _address_space())
    with contextlib.suppress(OSError, AttributeError):
        _die_with_parent()


def _limit(limits: Limits, used: int | None) -> None:
    set_to = {resource.RLIMIT_CORE: 0, resource.RLIMIT_CPU: limits.cpu, resource.RLIMIT_FSIZE: limits.disk}
    for kind, value in {**set_to, resource.RLIMIT_NOFILE: 256}.items():
        resource.setrlimit(kind, (value, value))
    if used is not None:
        resource.setrlimit(resource.RLIMIT_AS, (used + limits.memory, used + limits.memory))


def _address_space() -> int | None:
    """Of this process, in bytes; None where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return None


def _die_with_parent() -> None:
    """This process ends with the thread that made it, can't be looked into by others of its user, and never gains rights."""
    for option, value in ((_NO_NEW_PRIVS, 1), (_DUMPABLE, 0), (_PDEATHSIG, signal.SIGKILL)):
        _call("prctl", option, value, 0, 0, 0)


def adopt_orphans() -> None:
    """Processes whose parent ends become this one's children, where they can be found: without namespaces, the next best."""
    _call("prctl", _SUBREAPER, 1, 0, 0, 0)


def _end_as(child: int) -> NoReturn:
    os.closerange(0, 2)  # whoever waits for the end of what the child says must not wait for this process
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def _enter_user_namespace(others: int) -> None:
    """As the only user of it, under the same number. Root has a second one, `_NOBODY`, to become for good; that map another
    process has to write, which still has root's rights outside."""
    uid, gid, pid = os.getuid(), os.getgid(), os.getpid()
    if uid != 0:
        _call("unshare", _NEWUSER | others)
        _write_maps("self", uid, gid)
        return
    ready, go = os.pipe()
    helper = os.fork()
    if helper == 0:
        try:
            os.close(go)
            os.read(ready, 1)
            _write_maps(str(pid), uid, gid, also=_NOBODY)
            os._exit(0)
        finally:
            os._exit(1)
    try:
        _call("unshare", _NEWUSER | others)
    finally:
        os.close(go)
        os.close(ready)
        status = os.waitpid(helper, 0)[1]
    if status != 0:
        raise OSError("the map of users can't be written")


def _write_maps(process: str, uid: int, gid: int, also: int | None = None) -> None:
    more = "" if also is None else f"{also} {also} 1\n"
    if also is None:
        Path(f"/proc/{process}/setgroups").write_text("deny")
    Path(f"/proc/{process}/uid_map").write_text(f"{uid} {uid} 1\n{more}")
    Path(f"/proc/{process}/gid_map").write_text(f"{gid} {gid} 1\n{more}")


def _python() -> set[str]:
    return {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, *sys.path}


def _change_root(wanted: set[str]) -> None:
    _mount(None, "/", None, _REC | _PRIVATE)
    root = tempfile.mkdtemp()
    holder = os.open(os.path.dirname(root), os.O_RDONLY)
    _mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, "mode=755")
    os.mkdir(f"{root}/tmp")
    _mount("tmpfs", f"{root}/tmp", "tmpfs", _NOSUID | _NODEV, "mode=1777")
    bound: list[str] = []
    for path in sorted(wanted):
        if not os.path.lexists(path) or any(path == other or path.startswith(f"{other.rstrip('/')}/") for other in bound):
            continue
        _bind(path, root + path)
        if not os.path.islink(path):
            bound.append(path)
    _shown_in_tmp.extend(path for path in bound if path.startswith("/tmp/"))
    os.makedirs(f"{root}/proc", exist_ok=True)
    _set_attributes(root, _AT_RECURSIVE, (_ATTR_RDONLY, 0, 0, 0))
    _set_attributes(f"{root}/tmp", 0, (0, _ATTR_RDONLY, 0, 0))
    try:
        _mount("proc", f"{root}/proc", "proc", _NOSUID | _NODEV)
    except OSError:  # in containers that hide parts of it
        _mount("/proc", f"{root}/proc", None, _BIND | _REC)
    os.chdir(root)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _DETACH)
    os.chdir("/tmp")
    os.rmdir(os.path.basename(root), dir_fd=holder)
    os.close(holder)


def _bind(path: str, target: str, source: str | None = None) -> None:
    """Shows what is at `path` at `target` too; by its other name `source` if it is covered."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    source = source or path
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    _mount(source, target, None, _BIND | _REC)


def _set_attributes(path: str, flags: int, values: tuple[int, int, int, int]) -> None:
    attributes = (ctypes.c_uint64 * 4)(*values)  # to set, to clear, propagation, user namespace
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _call("syscall", _MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, ctypes.byref(attributes), size)


def _drop_capabilities() -> None:
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    _call("capset", ctypes.byref(header), ctypes.byref(none))


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    try:
        _call("mount", *texts[:3], ctypes.c_ulong(flags), texts[3])
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({target})") from error


def _call(name: str, *arguments: Any) -> int:
    result = int(getattr(_libc, name)(*arguments))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result
