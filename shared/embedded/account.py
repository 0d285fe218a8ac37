"""Under which identity PostgreSQL runs: it refuses root, and containers often offer nothing else."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from shared.embedded.program import Account, EmbeddedError

_NOBODY = "65534"
_PROBE_S = 10


def choose_account(program: Path, data: Path) -> Account:
    """Choose an account that may run ``program`` on ``data``, which need not exist.

    Anyone but root runs it as himself. Root runs it in a user namespace that shows
    root's files as nobody's, where the kernel allows that; else as another user,
    provided that this user can reach both. Data that belong to another user stay his.
    """
    if os.geteuid() != 0:
        return Account()
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return Account(uid=owner.st_uid, gid=owner.st_gid)
    # The folder that holds the data is ours to open; the way to it is not.
    folder = data.parent.parent
    account = namespace_account() or other_user_account(program, folder)
    if account is None:
        raise EmbeddedError(
            "PostgreSQL refuses to run as root, and neither way around it works here: user namespaces are "
            f"not allowed (unshare --user), and neither user postgres nor nobody can reach {program} and "
            f"enter {folder}. Run this as an ordinary user, or put both where others may enter."
        )
    return account


def namespace_account() -> Account | None:
    """Give the account of a user namespace in which the caller is nobody, if the kernel allows one."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    prefix = (unshare, "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}", "--")
    return Account(prefix=prefix) if _works([*prefix, "true"]) else None


def other_user_account(program: Path, folder: Path) -> Account | None:
    """Give the account of the user postgres or nobody, if it can run ``program`` and enter ``folder``."""
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        reaches = _works([str(program), "--version"], user) and _works(["test", "-x", str(folder)], user)
        if reaches:
            return Account(uid=user.pw_uid, gid=user.pw_gid)
    return None


def _works(argv: list[str], user: pwd.struct_passwd | None = None) -> bool:
    try:
        done = subprocess.run(
            argv,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_S,
            check=False,
            user=None if user is None else user.pw_uid,
            group=None if user is None else user.pw_gid,
            extra_groups=None if user is None else [],
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
