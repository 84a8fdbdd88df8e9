from tests.clients.client_stage import lane as lane
from tests.clients.client_stage import node_packages as node_packages
from tests.clients.client_stage import relayed as relayed
from tests.clients.client_stage import stage as stage
from tests.clients.video_origins import gateway_origin as gateway_origin
from tests.clients.video_origins import origin as origin
from tests.clients.video_origins import sandbox_origin as sandbox_origin
