"""The one place where parts are put together: paths, keys, ledger, clock, chance."""

import getpass
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import NotFoundError, ShipworthyError, StorageError
from shipworthy.ledger.artefacts import ArtefactStore
from shipworthy.ledger.store import Ledger, open_ledger
from shipworthy.security.keys import SigningKey, create_key, key_directory, load_key, load_public_key, load_public_keys
from shipworthy.workflows.layout import STATE_DIRECTORY, Project
from shipworthy.workflows.project import Parts

NAME_CHARACTERS = 40  # of a folder's name in its key's


def actor() -> str:
    """The machine's user, as whom the command line acts on an embedded project."""
    try:
        return f"user:{getpass.getuser()}"
    except (KeyError, OSError):  # no entry in the password database
        return f"user:{os.getuid()}"


def project_key(project: Project) -> SigningKey:
    """The project's signing key, made at first use; its public half is put into the project.

    Raises:
        NotFoundError: the project was signed with a key that is not here.
        StorageError: the key folder or the project cannot be written.
    """
    directory = key_directory(os.environ)
    name = key_name(project.root)
    try:
        signers = sorted(project.public_keys.glob("*.pub"))
        for known in signers:  # a project that moved keeps its key
            if (directory / f"{known.stem}.key").exists():
                return _matching(load_key(directory, known.stem), known)
        if signers:
            raise NotFoundError(_no_key(signers[0], directory))
        exists = (directory / f"{name}.key").exists()
        key = load_key(directory, name) if exists else create_key(directory, name)
        public = project.public_keys / f"{name}.pub"
        if not public.exists():
            project.public_keys.mkdir(parents=True, exist_ok=True)
            key.public.write_public(public)
    except OSError as error:
        if isinstance(error, ShipworthyError):
            raise
        raise StorageError(
            f"{error.filename}: cannot be written ({error.strerror}); make it writable for this user"
        ) from None
    return key


def _matching(key: SigningKey, public: Path) -> SigningKey:
    if load_public_key(public).keyid != key.public.keyid:
        raise NotFoundError(_no_key(public, key_directory(os.environ)))
    return key


def _no_key(public: Path, directory: Path) -> str:
    return (
        f"{directory} does not hold the private key of {public}, so nothing can be signed for this project; copy "
        f"{public.stem}.key there from where the project was made, or, if it is lost, move {STATE_DIRECTORY} away and "
        "ship anew"
    )


def key_name(root: Path) -> str:
    """One key for each project folder: its name, as far as a key can be named so, and a digest of its place.

    >>> key_name(Path("/srv/Größe & Preis"))[:-8]
    'gr-e-preis-'
    """
    place = root.resolve()
    words = re.sub(r"[^a-z0-9._-]+", "-", place.name.lower()).strip("._-")[:NAME_CHARACTERS].rstrip("._-")
    return f"{words or 'project'}-{digest_bytes(os.fsencode(place))[7:15]}"


@contextmanager
def open_parts(root: Path) -> Iterator[Parts]:
    """Everything that a changing command on the project at `root` needs.

    Raises:
        StorageError: state, keys or ledger cannot be written.
        IntegrityError: ledger and log do not agree.
    """
    project = Project(root)
    project.require()
    key = project_key(project)
    with open_ledger(project.ledger_url(os.environ), project.log, key, time.time) as ledger:
        yield Parts(
            project=project,
            ledger=ledger,
            artefacts=ArtefactStore(project.blobs),
            key=key,
            actor=actor(),
            now=time.time,
            entropy=secrets.token_bytes,
        )


@contextmanager
def open_to_read(root: Path) -> Iterator[Ledger]:
    """The ledger of the project at `root` for a command that only looks; nothing can be recorded."""
    project = Project(root)
    project.require()
    if not project.log.is_dir():
        raise NotFoundError(f"{root}: nothing has happened here yet; run `shipworthy ship --project {root}`")
    keys = load_public_keys(project.public_keys)
    with open_ledger(project.ledger_url(os.environ), project.log, None, time.time, keys=keys) as ledger:
        yield ledger
