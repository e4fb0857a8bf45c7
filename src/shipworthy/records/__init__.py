"""The durable log of predictions and outcomes."""

__all__: list[str] = []
