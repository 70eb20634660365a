"""What a function's process may see of a folder store: its owners' folders, and nothing else of it.

Linux's namespaces do it, as for a container, for root and for everybody else: the rest of the store is not there, and
what the function does not write, the rest of the machine with it, is read-only. It is the kernel that refuses.
"""

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterable
from pathlib import Path

NEW_USER, NEW_MOUNTS = 0x1000_0000, 0x2_0000  # sched.h
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x4_0000  # sys/mount.h
MOUNT_SETATTR, AT_RECURSIVE, AT_FDCWD = 442, 0x8000, -100  # the same number on every architecture, from Linux 5.12
NO_NEW_PRIVILEGES, CAPABILITY_VERSION = 38, 0x2008_0522  # sys/prctl.h, linux/capability.h
NOBODY = 65534  # whom root is inside: to be nobody there takes what root may do away

VIEW = "view"

libc = ctypes.CDLL(None, use_errno=True)


def confine(folder: Path, reads: Iterable[str], writes: Iterable[str]) -> None:
    """From now on this process and its children see of `folder` only what is said here, and can write nowhere else.

    folder/store/OWNER, such as store/private/client-0000: of the owners `writes`, and, read-only, `reads`; folder/tmp,
    an empty one of its own, where TMPDIR leads. Nothing that was open before stays so but the standard streams, and the
    working directory is the view's. Those owners' folders are there already, and folder/view, an empty one.
    Call it before the first thread starts. Raises OSError where the system lets nobody do that; the process should end
    then.
    """
    here = _let_go()
    user, group = os.getuid(), os.getgid()
    _done(libc.unshare(NEW_USER | NEW_MOUNTS))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user or NOBODY} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group or NOBODY} {group} 1")
    _mount(None, "/", PRIVATE | RECURSIVE)
    _read_only("/", True)
    # The new folder is put together beside the old one, whose parts it shows, and covers it in the end.
    view, writes = folder / VIEW, set(writes)
    _mount("tmpfs", view, options="size=64m")
    (view / "tmp").mkdir()
    _mount(view / "tmp", view / "tmp", BIND)
    for owner in sorted({*reads, *writes}):
        shown = view / "store" / owner
        shown.mkdir(parents=True)
        _mount(folder / "store" / owner, shown, BIND)
        _read_only(shown, owner not in writes)
    _mount(None, view, REMOUNT | BIND | READ_ONLY)
    _mount(view, folder, BIND | RECURSIVE)
    with contextlib.suppress(OSError):
        os.chdir(here)  # what is called so in the view, if anything is
    os.environ["TMPDIR"] = str(folder / "tmp")
    _done(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _done(libc.capset(ctypes.byref((ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)), (ctypes.c_uint32 * 6)()))


def _let_go() -> Path:
    """The working directory's path; it and open files would lead past the view, to what the folder covered."""
    try:
        here = Path.cwd()
    except OSError:  # it was removed
        here = Path("/")
    os.chdir("/")
    for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if number > 2:
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(number)
    return here


def possible(folder: Path) -> str | None:
    """None where `confine` works for `folder`, whose store has `public`, else why not; a child process tries it."""
    child = os.fork()
    if child == 0:
        status = errno.EIO
        try:
            confine(folder, ["public"], [])
            status = 0
        except OSError as error:
            status = error.errno or status
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return os.strerror(status) if status else None


def _mount(source: str | Path | None, target: str | Path, flags: int = 0, options: str | None = None) -> None:
    """A bind mount of `source`, another kind of mount that is called so, or other flags for what is mounted already."""
    names = [None if name is None else os.fsencode(name) for name in (source, target)]
    _done(libc.mount(*names, names[0], flags, options and options.encode()))


def _read_only(target: str | Path, on: bool) -> None:
    """With everything mounted below it."""
    attributes = (ctypes.c_uint64 * 4)(READ_ONLY if on else 0, 0 if on else READ_ONLY, 0, 0)  # set, clear
    _done(libc.syscall(MOUNT_SETATTR, AT_FDCWD, os.fsencode(target), AT_RECURSIVE, ctypes.byref(attributes),
                       ctypes.sizeof(attributes)))


def _done(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
