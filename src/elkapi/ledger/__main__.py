"""`python -m elkapi.ledger`: the ledger process alone, with settings from the environment."""

from elkapi.ledger.server import run
from elkapi.settings import load_settings

run(load_settings())
