from live import live_gateway as live_gateway
