"""What operators see from outside: structured logs, metrics, process facts. Nothing here may slow a call down."""
