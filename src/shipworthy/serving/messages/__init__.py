"""Messages of a broker: asked and answered like requests, each id once."""

__all__ = [
    "amqp",
    "consumer",
    "counters",
    "metrics_port",
    "process",
    "settings",
    "suspects",
]
