"""Words that all rooms share: errors, digests, ids. Pure, and imports nothing of ours."""

__all__ = ["digest", "errors", "ids"]
