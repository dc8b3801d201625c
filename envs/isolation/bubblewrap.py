"""The command lines that run a program: in bubblewrap, or without any isolation.

Inside there are the system's programs and one Python, read-only, a `/proc` of its own, the devices that every program
needs, and a folder `/tmp` that goes with it. There is no network, no other process, no variable and no file of ours.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from aipo.errors import ConfigError
from envs.isolation.limits import Limits

ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # the same verdict on repeat
    "OMP_NUM_THREADS": "1",
}
"""All variables that a program sees."""

_NOBODY = "65534"
_PASSAGE = "/mnt"
"""A folder that every system has (FHS); in a namespace of its own a mount over it is seen by nobody else."""
_BIND = f"""
mount -t tmpfs none {_PASSAGE}
place=0
while [ "$1" != -- ]; do
    mkdir {_PASSAGE}/$place
    mount --rbind "$1" {_PASSAGE}/$place
    place=$((place + 1))
    shift
done
shift
exec "$@"
"""
"""Puts folders where a user may look who may not look into their parents; then it becomes the command."""
_NAMESPACES = [
    "--unshare-all",
    "--unshare-user",
    "--disable-userns",
    "--cap-drop",
    "ALL",
    "--die-with-parent",
    "--new-session",
    "--as-pid-1",  # with its end the kernel ends all that it started, before bubblewrap ends
]
_UNSAFE = "`unsafe: true` runs programs without isolation: they may do whatever you may"


def python_folders(python: str) -> tuple[str, list[str]]:
    """A Python by its real path, and the folders outside `/usr` that it needs.

    Raises:
        ConfigError: it does not run.
    """
    code = "import sys; print(sys.prefix); print(sys.base_prefix)"
    try:
        run = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(f"python: got {error}, allowed a Python that runs, at {python!r}") from error
    folders = dict.fromkeys(os.path.realpath(line) for line in run.stdout.splitlines())
    return python, [folder for folder in folders if Path("/usr") not in (Path(folder), *Path(folder).parents)]


def isolated_command(
    command: Sequence[str],
    files: Mapping[str, int],
    folders: Sequence[str],
    limits: Limits,
    status: int,
    seccomp: int,
) -> list[str]:
    """Runs `command` in bubblewrap.

    Args:
        files: by name in `/tmp`, the descriptor that its content is read from.
        folders: those outside `/usr` that the program reads.
        status: the descriptor to which bubblewrap tells how it went.
        seccomp: the descriptor with the filter of system calls.
    """
    as_root = os.geteuid() == 0
    binds, outer = _system(), list[str]()
    if as_root:
        # The kernel does not count the processes of root. So the program's user is nobody, who may not look into
        # root's folders: root puts the one with Python where nobody can mount it from.
        outer = ["unshare", "--mount", "sh", "-ec", _BIND, "sh", *folders, "--"]
        outer += ["setpriv", "--reuid", _NOBODY, "--regid", _NOBODY, "--clear-groups"]
    binds += ["--proc", "/proc", "--dev", "/dev", "--size", str(limits.disk), "--tmpfs", "/tmp"]
    for place, folder in enumerate(folders):
        binds += ["--ro-bind", f"{_PASSAGE}/{place}" if as_root else folder, folder]
    for name, descriptor in files.items():
        binds += ["--file", str(descriptor), f"/tmp/{name}"]
    binds += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp", "--clearenv"]
    for name, value in ENVIRONMENT.items():
        binds += ["--setenv", name, value]
    binds += ["--json-status-fd", str(status), "--seccomp", str(seccomp)]
    return [
        *outer,
        "bwrap",
        *_NAMESPACES,
        *binds,
        "--",
        *_limited(limits),
        f"--nproc={limits.processes}",
        *command,
    ]


def bare_command(command: Sequence[str], limits: Limits) -> list[str]:
    """Runs `command` without isolation, within the limits where the system has a program for them."""
    return [*(_limited(limits) if shutil.which("prlimit") else ()), *command]


def _system() -> list[str]:
    """The system's folders, read-only, as they are here: `/bin` may be a link to `/usr/bin`."""
    binds = ["--ro-bind", "/usr", "/usr"]
    for folder in ("/bin", "/sbin", "/lib", "/lib64"):
        if os.path.islink(folder):
            binds += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            binds += ["--ro-bind", folder, folder]
    return [*binds, "--ro-bind-try", "/etc/alternatives", "/etc/alternatives"]


def _limited(limits: Limits) -> list[str]:
    return [
        "prlimit",
        f"--cpu={limits.seconds}",
        f"--as={limits.memory}",
        f"--fsize={limits.disk}",
        "--nofile=64",
        "--core=0",
    ]


def check_isolation() -> None:
    """Refuses a system on which a program cannot be isolated, and says what to do.

    Raises:
        ConfigError: no Linux, no bubblewrap, or namespaces are forbidden.
    """
    where = "the isolation of untrusted programs"
    if sys.platform != "linux":
        raise ConfigError(
            f"system: got {sys.platform}, allowed Linux, for {where}: use a Linux machine or a container; {_UNSAFE}"
        )
    needed = ["bwrap", "prlimit", *(["setpriv", "unshare"] if os.geteuid() == 0 else [])]
    if missing := [name for name in needed if shutil.which(name) is None]:
        raise ConfigError(
            f"programs: got no {', '.join(missing)}, allowed bubblewrap >= 0.8 and util-linux, for {where}: "
            f"apt-get install bubblewrap util-linux, or dnf install them; {_UNSAFE}"
        )


def forbidden(says: str) -> ConfigError:
    """The error for a bubblewrap that cannot isolate: what it said, and what to do."""
    return ConfigError(
        f"bubblewrap: got {says!r}, allowed a program that runs in namespaces, for the isolation of untrusted programs: "
        "install bubblewrap >= 0.8; allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, on Ubuntu also "
        "kernel.apparmor_restrict_unprivileged_userns=0; in Docker --security-opt seccomp=unconfined "
        f"--security-opt systempaths=unconfined); {_UNSAFE}"
    )
