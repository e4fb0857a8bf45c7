"""Trains the model of mortgage; `shipworthy ship` calls `train` in a process of its own."""

import lightgbm as lgb


def train(frame, params, context):
    """Gradient boosting, small and the same each time."""
    inputs, truth = frame.select(context.features).to_numpy(), frame[context.target].to_numpy()
    settings = {"n_estimators": 60, "num_leaves": 15, "min_child_samples": 20} | params
    model = lgb.LGBMClassifier(
        **settings, random_state=context.seed, deterministic=True, force_row_wise=True, n_jobs=1, verbosity=-1
    )
    return model.fit(inputs, truth)
