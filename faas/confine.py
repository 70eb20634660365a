"""What a function's process may see of a folder store: its owners' folders, and nothing else of it.

Linux's namespaces do it, as for a container, for root and for everybody else: the rest of the store is not there, what
the function only reads is mounted read-only, and so is the rest of the machine. The kernel refuses the rest.
"""

import ctypes
import errno
import os
from collections.abc import Iterable
from pathlib import Path

NEW_USER, NEW_MOUNTS = 0x1000_0000, 0x2_0000  # sched.h
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x4_0000  # sys/mount.h
MOUNT_SETATTR, AT_RECURSIVE, AT_FDCWD = 442, 0x8000, -100  # the same number on every architecture, from Linux 5.12
NO_NEW_PRIVILEGES = 38  # sys/prctl.h
NOBODY = 65534  # whom root is inside: to be nobody there takes what root may do away

VIEW = "view"  # an empty folder beside the store, where its new root is put together

libc = ctypes.CDLL(None, use_errno=True)


def confine(store: Path, reads: Iterable[str], writes: Iterable[str]) -> None:
    """From now on this process and its children see of the folder `store` only the owners `reads` and `writes`.

    Those are folders of it, such as private/client-0000, and are there already; `view` beside it is an empty one.
    Nothing but the folders of `writes` can be written, neither in the store nor elsewhere. Call it before the first
    thread starts. Raises OSError where the system lets nobody do that; the process should end then.
    """
    user, group = os.getuid(), os.getgid()
    _done(libc.unshare(NEW_USER | NEW_MOUNTS))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user or NOBODY} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group or NOBODY} {group} 1")
    _mount(None, "/", PRIVATE | RECURSIVE)
    _read_only("/", True)
    # A root of a few empty folders on which the owners' are mounted; it covers the store, so that comes last.
    view = store.parent / VIEW
    _mount(b"tmpfs", view)
    writes = set(writes)
    for owner in sorted({*reads, *writes}):
        (view / owner).mkdir(parents=True)
        _mount(os.fsencode(store / owner), view / owner, BIND)
        _read_only(view / owner, owner not in writes)
    _mount(None, view, REMOUNT | BIND | READ_ONLY)
    _mount(os.fsencode(view), store, BIND | RECURSIVE)
    _done(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _done(libc.capset(ctypes.byref((ctypes.c_uint32 * 2)(0x2008_0522, 0)), ctypes.byref((ctypes.c_uint32 * 6)())))


def possible(folder: Path) -> str | None:
    """None where `confine` works for the store in `folder`, which has `public`, else why not; a child tries it."""
    child = os.fork()
    if child == 0:
        status = errno.EIO
        try:
            confine(folder / "store", ["public"], [])
            status = 0
        except OSError as error:
            status = error.errno or status
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return os.strerror(status) if status else None


def _mount(source: bytes | None, target: str | Path, flags: int = 0) -> None:
    kind = source if source == b"tmpfs" else None
    _done(libc.mount(source, os.fsencode(target), kind, flags, None))


def _read_only(target: str | Path, on: bool) -> None:
    """With everything mounted below it."""
    attributes = (ctypes.c_uint64 * 4)(READ_ONLY if on else 0, 0 if on else READ_ONLY, 0, 0)  # set, clear
    _done(libc.syscall(MOUNT_SETATTR, AT_FDCWD, os.fsencode(target), AT_RECURSIVE, ctypes.byref(attributes),
                       ctypes.sizeof(attributes)))


def _done(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
