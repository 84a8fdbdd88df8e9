"""The providers the sandbox speaks for: each is one file that declares its routes; everything else is shared."""

from __future__ import annotations

from elkapi.sandbox.providers.anthropic import PROVIDER as ANTHROPIC
from elkapi.sandbox.providers.azure import PROVIDER as AZURE
from elkapi.sandbox.providers.bedrock import PROVIDER as BEDROCK
from elkapi.sandbox.providers.gemini import PROVIDER as GEMINI
from elkapi.sandbox.providers.openai import PROVIDER as OPENAI
from elkapi.sandbox.providers.vertex import PROVIDER as VERTEX
from elkapi.sandbox.routes import Provider

PROVIDERS: tuple[Provider, ...] = (OPENAI, AZURE, ANTHROPIC, GEMINI, VERTEX, BEDROCK)
