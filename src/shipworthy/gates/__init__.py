"""Pure decisions on evidence: whether what was measured meets what the contract declares.

A gate looks at the confidence bound, never at the point. Too few rows are `insufficient`, never a pass. Every
declared limit must be met on its own, so the chance that an unfit payload passes is at most `1 - confidence`
however many limits there are (an intersection-union test); more limits only make refusals likelier.
"""

__all__ = [
    "budget",
    "evidence",
    "fairness",
    "judge",
    "limit",
    "performance",
    "robustness",
    "value",
    "verdict",
]
