"""A store that is a folder here: its owners' folders, which both ends may write to before a function starts."""

import os
import struct
from pathlib import Path
from urllib.parse import urlsplit

from faas.cluster import access
from faas.cluster.deployment import Deployment
from kdlib.errors import KdlibError
from kdlib.invoke.tokens import AGGREGATOR

ACL_VERSION, WHOEVER = 2, 2**32 - 1  # linux/posix_acl_xattr.h
OWNER, USER, GROUP, MASK, OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20


def expect_user(deployment: Deployment) -> None:
    """Raises KdlibError where the store is a folder here that the functions, as whom they run, could not write to."""
    here = os.getuid()
    if _folder(deployment) and here and deployment.users != {here}:
        others = ", ".join(map(str, sorted(deployment.users - {here})))
        raise KdlibError(f"the functions would run as user {others}, who may not write to {_folder(deployment)}, as "
                         f"you are user {here}; allowed: `user = {here}` in the file for --values, then `render` again")


def lay_out(deployment: Deployment) -> None:
    """Every owner's folder, if the store is a folder here: else the cluster makes them, and makes them root's.

    Where root does it, the functions' user may write too. Raises KdlibError where that cannot be.
    """
    root = _folder(deployment)
    if root is None:
        return
    clients = [name for name in deployment.functions if name != AGGREGATOR]
    for owner in sorted({owner for subject in deployment.functions for owner in access.folders(subject, clients)}):
        folder = root / owner
        folder.mkdir(parents=True, exist_ok=True)
        if os.getuid() == 0:
            for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
                _let_write(place, deployment.users)


def _folder(deployment: Deployment) -> Path | None:
    url = urlsplit(deployment.store or "")
    return Path(url.path) if url.scheme == "file" else None


def _let_write(folder: Path, users: set[int]) -> None:
    """Let the users write there, and in what is made below it later: an access control list, and a default one."""
    entries = [(OWNER, 7, WHOEVER), *((USER, 7, user) for user in sorted(users)), (GROUP, 5, WHOEVER),
               (MASK, 7, WHOEVER), (OTHERS, 0, WHOEVER)]
    acl = struct.pack("<I", ACL_VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    for kind in ("access", "default"):
        try:
            os.setxattr(folder, f"system.posix_acl_{kind}", acl)
        except OSError as error:
            raise KdlibError(f"{folder} lies on a file system without access control lists ({error.strerror}), and the "
                             "functions do not run as root; allowed: another folder as `driver`, or to be another user "
                             "than root") from error
