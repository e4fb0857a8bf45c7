"""Where things are in a project folder. Paths only: a serving machine can use it without the ledger's libraries."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shipworthy.kernel.errors import SourceError, UsageError
from shipworthy.records.format import stem_of
from shipworthy.security.vault import DATA_KEYS, Vault

CONTRACT_FILE = "shipworthy.yaml"
STATE_DIRECTORY = ".shipworthy"
NO_PROJECT = (
    f"{{root}}: there is no {CONTRACT_FILE} in this folder; "
    "run `shipworthy init DIR --data FILE --target COLUMN`, or name the project with --project DIR"
)


@dataclass(frozen=True, slots=True)
class Project:
    """The paths of one project; nothing is read or made by naming them."""

    root: Path
    vault: Vault = field(init=False, repr=False, compare=False)  # opens what is encrypted below the state folder

    def __post_init__(self) -> None:
        object.__setattr__(self, "vault", Vault(self.data_keys, os.environ))  # which is asked when a key is needed

    @property
    def contract_file(self) -> Path:
        """The contract."""
        return self.root / CONTRACT_FILE

    @property
    def state(self) -> Path:
        """Everything that Shipworthy keeps."""
        return self.root / STATE_DIRECTORY

    @property
    def log(self) -> Path:
        """The audit log's tiles and checkpoint."""
        return self.state / "log"

    @property
    def blobs(self) -> Path:
        """Content-addressed artefacts."""
        return self.state / "blobs"

    @property
    def tables(self) -> Path:
        """Snapshots, in Delta Lake."""
        return self.state / "tables"

    @property
    def sources(self) -> Path:
        """Rows of sources that are kept from one ingest to the next."""
        return self.state / "sources"

    @property
    def releases(self) -> Path:
        """Bundles of every release, under the digest of its statement."""
        return self.state / "releases"

    @property
    def quarantine(self) -> Path:
        """Rows that were not accepted, with reasons."""
        return self.state / "quarantine"

    @property
    def replayed(self) -> Path:
        """Rows that a person fixed, which each snapshot takes."""
        return self.state / "replayed"

    @property
    def work(self) -> Path:
        """Where a stage puts what it has not finished."""
        return self.state / "work"

    @property
    def public_keys(self) -> Path:
        """Public keys that releases and checkpoints are verified with."""
        return self.state / "keys"

    @property
    def data_keys(self) -> Path:
        """Wrapped keys of what is encrypted at rest."""
        return self.public_keys / DATA_KEYS

    def live(self, environment: str) -> Path:
        """What a server of `environment` reads."""
        return self.state / "live" / environment

    def records(self, environment: str) -> Path:
        """What the servers of `environment` wrote."""
        return self.state / "records" / environment

    def outcomes(self, environment: str) -> Path:
        """Truths of what was answered in `environment`, as they came."""
        return self.state / "outcomes" / environment

    def ledger_url(self, environment: Mapping[str, str]) -> str:
        """`SHIPWORTHY_LEDGER_URL` if set, else SQLite in the state folder."""
        return environment.get("SHIPWORTHY_LEDGER_URL") or f"sqlite:///{self.state / 'ledger.db'}"

    def contract_text(self) -> str:
        """The contract as it is written.

        Raises:
            UsageError: the folder holds no contract.
            SourceError: the file is not UTF-8 or cannot be read.
        """
        try:
            return self.contract_file.read_text(encoding="utf-8-sig")
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(NO_PROJECT.format(root=self.root)) from None
        except UnicodeDecodeError as error:
            raise SourceError(f"{CONTRACT_FILE}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
        except OSError as error:
            raise SourceError(f"{CONTRACT_FILE}: cannot be read ({error.strerror}); check its permissions") from None

    def require(self) -> None:
        """Refuse a folder that is no project.

        Raises:
            UsageError: it holds neither a contract nor state.
        """
        if not self.contract_file.is_file() and not self.state.is_dir():
            raise UsageError(NO_PROJECT.format(root=self.root))


def name_segment(segment: Path) -> str:
    """How the ledger calls the segment, compacted or not, at `records/ENV/NAME` or `outcomes/ENV/NAME`.

    >>> name_segment(Path("outcomes/local/file-00000001")), name_segment(Path("records/local/w0-00000001"))
    ('segment:local/outcomes/file-00000001', 'segment:local/w0-00000001')
    """
    environment, kind = segment.parent.name, segment.parent.parent.name
    return f"segment:{environment}/{'' if kind == 'records' else f'{kind}/'}{stem_of(segment)}"
