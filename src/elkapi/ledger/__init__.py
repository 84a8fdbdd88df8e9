"""The money: accounts, append-only entries, holds and settlements, recovery and the check of it all.

What a call may cost is decided in `pricing`; what it did cost is told to us in a Settlement. Storage is SQL below.
"""
