"""From a candidate to a payload, from verdicts to a signed release."""

__all__ = ["bill", "payload", "policy", "publish", "schema"]
