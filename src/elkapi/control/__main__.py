"""`python -m elkapi.control`: the control process alone, with the settings of the environment."""

from elkapi.control import run
from elkapi.roles import WorkerOrder
from elkapi.settings import load_settings

run(WorkerOrder(settings=load_settings()))
