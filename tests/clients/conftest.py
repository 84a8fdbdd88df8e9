from client_stage import lane as lane
from client_stage import node_packages as node_packages
from client_stage import relayed as relayed
from client_stage import stage as stage
