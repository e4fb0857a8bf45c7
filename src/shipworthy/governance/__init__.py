"""From the ledger to cards, reports, and what other tools' standards call them."""

__all__ = ["card", "croissant", "odcs", "odcs_import", "openlineage", "portfolio"]
