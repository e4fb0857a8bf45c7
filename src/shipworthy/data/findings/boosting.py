"""LightGBM for the findings: boosted trees alone, without what its estimators for other libraries would load."""

import functools
import sys
from types import ModuleType

_UNNEEDED = ("sklearn", "pandas")  # and through them SciPy's statistics: a second of every `ship`


@functools.cache
def load_lightgbm() -> ModuleType:
    """The library; whoever imports it elsewhere gets a whole one of their own.

    Where a process has loaded it, or what it would load, that is used.
    """
    is_loaded = any(name in sys.modules for name in ("lightgbm", *_UNNEEDED))
    if not is_loaded:
        sys.modules.update(dict.fromkeys(_UNNEEDED))  # type: ignore[arg-type]  # None: not to be found
    try:
        import lightgbm
    finally:
        if not is_loaded:
            for name in [name for name in sys.modules if name in _UNNEEDED or name.partition(".")[0] == "lightgbm"]:
                del sys.modules[name]
    return lightgbm
