"""From a payload and test rows to evidence: predictions, perturbations, budgets in the real server.

What is measured is the payload's own bytes through the server's own policy and, for the budget, the server itself.
"""

__all__ = [
    "budget",
    "exact",
    "faithfulness",
    "load",
    "measure",
    "novelty",
    "perturb",
    "processes",
    "sizing",
    "skew",
    "structure",
]
