"""`python -m elkapi.control`: the control process alone, with the settings of the environment."""

from elkapi.control import run
from elkapi.settings import load_settings

run(load_settings())
