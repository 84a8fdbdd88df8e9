"""Long tasks after their submit: reading providers' words, asking again until an end, copying what was made."""
