"""The providers the sandbox speaks for: each is one file that declares its routes; everything else is shared."""

from __future__ import annotations

from elkapi.sandbox.providers.anthropic import PROVIDER as ANTHROPIC
from elkapi.sandbox.providers.openai import PROVIDER as OPENAI
from elkapi.sandbox.routes import Provider

PROVIDERS: tuple[Provider, ...] = (OPENAI, ANTHROPIC)
