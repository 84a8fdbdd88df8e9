from client_stage import lane as lane
from client_stage import node_packages as node_packages
from client_stage import relayed as relayed
from client_stage import stage as stage
from video_origins import gateway_origin as gateway_origin
from video_origins import origin as origin
from video_origins import sandbox_origin as sandbox_origin
