"""Trains the model of late-flights; `shipworthy ship` calls `train` in a process of its own."""

import lightgbm as lgb


def train(frame, params, context):
    model = lgb.LGBMClassifier(
        **params, random_state=context.seed, deterministic=True, force_row_wise=True, n_jobs=2, verbosity=-1
    )
    return model.fit(frame.select(context.features).to_numpy(), frame[context.target].to_numpy())
