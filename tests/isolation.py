"""A network namespace of one's own, whose only interface is loopback: for suites that must show what needs no network.

`without_network` is the test's side, the other functions are for the program that runs inside.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess

# The kernel's names for reading and setting an interface's flags, and the flag that says it is up.
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


def without_network() -> tuple[list[str], str | None]:
    """(the command that cuts the network for what follows it, why this machine has none): root needs no user namespace.

    The reason is no failure in CI either: some containers forbid it, and nothing installed could change that.
    """
    if shutil.which("unshare") is None:
        return [], "unshare is not installed (Debian: util-linux)"
    command = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
    refused = subprocess.run([*command, "true"], capture_output=True, text=True)
    if refused.returncode != 0:
        return [], f"this machine does not allow a network namespace: {refused.stderr.strip()}"
    return command, None


def bring_loopback_up() -> None:
    """A new namespace has one interface, and it is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        asked = struct.pack("16sh14x", b"lo", 0)
        _, flags = struct.unpack("16sh14x", fcntl.ioctl(control, SIOCGIFFLAGS, asked))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def reaches_out() -> str:
    """What happens to a connection that would leave this machine (a documentation address, which nobody has)."""
    with socket.socket() as probe:
        probe.settimeout(2)
        try:
            probe.connect(("192.0.2.1", 443))
        except OSError as error:
            return os.strerror(error.errno) if error.errno else str(error)
    return "connected"
