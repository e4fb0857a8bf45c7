"""Records and outcomes -> windows -> findings -> alerts."""

__all__ = ["alerts", "deliver", "drift", "findings", "quality", "windows"]
