"""What comes back: labels and reviewers' decisions."""

__all__ = ["labels", "reviews"]
