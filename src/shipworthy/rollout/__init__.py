"""The state machine of traffic and its sequential judgement. Pure: it is handed health, it fetches nothing."""

__all__ = ["judge", "measure", "plan"]
