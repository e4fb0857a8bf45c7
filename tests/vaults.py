"""A vault for tests: its master key comes from an environment of the test's own."""

from pathlib import Path

from shipworthy.security.datakeys import make_data_key
from shipworthy.security.vault import Vault

ENVIRONMENT = {"SHIPWORTHY_MASTER_KEY": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}


def make_vault(folder: Path) -> Vault:
    """A vault with one data key in `folder/data`."""
    make_data_key(folder / "data", ENVIRONMENT, 0.0)
    return Vault(folder / "data", ENVIRONMENT)
