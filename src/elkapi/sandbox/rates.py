"""Token prices of the sandbox's models, and the charge of a usage."""

from __future__ import annotations

import msgspec

from elkapi.sandbox.messages import Charge
from elkapi.sandbox.talk import Usage


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """Nano-USD per token. `cached` and `cache_write` tokens are part of the input but have their own prices."""

    input: int
    output: int
    cached: int
    cache_write: int

    def charge(self, model: str, usage: Usage, output_tokens: int | None = None) -> Charge:
        """The charge of one call; `output_tokens` replaces the usage's output."""
        output = usage.output if output_tokens is None else output_tokens
        plain = usage.input - usage.cached - usage.cache_write
        cost = plain * self.input + usage.cached * self.cached + usage.cache_write * self.cache_write
        return Charge(
            model,
            usage.input,
            cost + output * self.output,
            output_tokens=output,
            cached_tokens=usage.cached,
            cache_write_tokens=usage.cache_write,
        )
