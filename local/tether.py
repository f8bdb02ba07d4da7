"""Runs a command that ends when its parent ends: `python -I -S tether.py SIGNAL PARENT_PID USER COMMAND…`.

The supervisor starts every process through this, so that none of them outlives a supervisor that was killed. Linux
sends SIGNAL then; on other systems the next `up` finds and ends what was left. USER may be empty: the current one.
It uses only the standard library and replaces itself by COMMAND, so it costs some 20 ms and no memory.
"""

import ctypes
import os
import pwd
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    signal_number, parent, user, *command = sys.argv[1:]
    # Before the change of user, who may not be allowed to read the interpreter's own files.
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if user:
        entry = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    if libc is not None:
        # After the change of user, because the kernel forgets the signal at one.
        libc.prctl(PR_SET_PDEATHSIG, int(signal_number))
        if os.getppid() != int(parent):
            sys.exit("the supervisor ended before this process began")
    os.execv(command[0], command)  # noqa: S606 - a list from our own supervisor, no shell


if __name__ == "__main__":
    main()
