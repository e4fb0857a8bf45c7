"""From a payload and test rows to evidence: predictions, perturbations, budgets in the real server."""

__all__: list[str] = []
