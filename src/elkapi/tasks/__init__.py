"""Long tasks after their submit: reading providers' states, polling until the end, copying results."""
