"""A private network namespace with only loopback, for suites that prove that something needs no network.

The test calls `without_network`; the other functions are for the program that runs inside.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess

# The ioctl requests that read and set an interface's flags, and the flag for "up".
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


def without_network() -> tuple[list[str], str | None]:
    """(prefix for a command that must run without network, None), or ([], the reason why this machine has none).

    Root needs no user namespace. The reason is no failure even in CI: some containers forbid namespaces, and no package
    could change that.
    """
    if shutil.which("unshare") is None:
        return [], "unshare is not installed (Debian: util-linux)"
    command = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
    refused = subprocess.run([*command, "true"], capture_output=True, text=True)
    if refused.returncode != 0:
        return [], f"this machine does not allow a network namespace: {refused.stderr.strip()}"
    return command, None


def bring_loopback_up() -> None:
    """Bring up loopback, which is down in a new namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        asked = struct.pack("16sh14x", b"lo", 0)
        _, flags = struct.unpack("16sh14x", fcntl.ioctl(control, SIOCGIFFLAGS, asked))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def reaches_out() -> str:
    """The outcome of connecting to another machine (a reserved documentation address)."""
    with socket.socket() as probe:
        probe.settimeout(2)
        try:
            probe.connect(("192.0.2.1", 443))
        except OSError as error:
            return os.strerror(error.errno) if error.errno else str(error)
    return "connected"
