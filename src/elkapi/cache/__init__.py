"""Whole answers stored for equal calls: sealed, bounded, shared by the workers of a host or, with Redis, by all
hosts."""

from elkapi.cache.answers import Answers
from elkapi.cache.entry import Entry

__all__ = ["Answers", "Entry"]
