"""Whole answers kept for equal calls: sealed, bounded, shared by the workers of a host or, over Redis, by all hosts."""

from elkapi.cache.answers import Answers
from elkapi.cache.entry import Entry

__all__ = ["Answers", "Entry"]
