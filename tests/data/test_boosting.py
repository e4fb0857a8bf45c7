"""LightGBM is loaded for the findings alone, and whole for everyone else."""

import subprocess
import sys

SCRIPT = """
import sys
from shipworthy.data.findings.boosting import load_lightgbm
lgb = load_lightgbm()
assert not {"sklearn", "pandas"} & {name.partition(".")[0] for name in sys.modules}
import numpy as np
rows = np.arange(200.0).reshape(100, 2)
model = lgb.train({"verbose": -1, "objective": "binary"}, lgb.Dataset(rows, label=rows[:, 0] > 50), 3)
assert model.predict(rows).shape == (100,)
import lightgbm, pandas, sklearn
assert lightgbm is not lgb
whole = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(rows, rows[:, 0] > 50)
assert np.allclose(whole.predict_proba(pandas.DataFrame(rows)).sum(axis=1), 1)
assert np.allclose(model.predict(rows), lgb.Booster(model_str=model.model_to_string()).predict(rows))
"""


def test_the_findings_do_not_load_what_they_do_not_need_and_take_nothing_from_others() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
