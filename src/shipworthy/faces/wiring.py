"""The one place where parts are put together: paths, keys, ledger, clock, chance."""

import getpass
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import NotFoundError, ShipworthyError, StorageError
from shipworthy.ledger.artefacts import ArtefactStore
from shipworthy.ledger.store import Ledger, open_ledger
from shipworthy.security.access import Target, authorise
from shipworthy.security.keyring import ActiveKey, PublicKeys, active_name, holder_of
from shipworthy.security.keys import create_key, key_directory, load_key
from shipworthy.security.model_key import open_model_key
from shipworthy.workflows.gate import system_of
from shipworthy.workflows.layout import Project
from shipworthy.workflows.principals import acting_on
from shipworthy.workflows.project import Parts

NAME_CHARACTERS = 40  # of a folder's name in its key's


def actor() -> str:
    """The machine's user, as whom the command line acts on an embedded project."""
    try:
        return f"user:{getpass.getuser()}"
    except (KeyError, OSError):  # no entry in the password database
        return f"user:{os.getuid()}"


def project_key(project: Project) -> ActiveKey:
    """The project's signing key, made at first use; its public half is put into the project.

    Raises:
        NotFoundError: the project was signed with a key that is not here.
        StorageError: the key folder or the project cannot be written.
    """
    directory = key_directory(os.environ)
    try:
        if active_name(project.public_keys, os.environ) is None:
            name = key_name(project.root)
            exists = holder_of(name, os.environ) == "file"
            key = load_key(directory, name) if exists else create_key(directory, name)
            key.public.write_public(project.public_keys / f"{name}.pub")
        signer = ActiveKey(project.public_keys, os.environ)
        signer.current()  # now rather than at the first signature
    except OSError as error:
        if isinstance(error, ShipworthyError):
            raise
        raise StorageError(
            f"{error.filename}: cannot be written ({error.strerror}); make it writable for this user"
        ) from None
    return signer


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
    keys = PublicKeys(project.public_keys)
    with open_ledger(project.ledger_url(os.environ), project.log, key, time.time, keys=keys) as ledger:
        yield Parts(
            project=project,
            ledger=ledger,
            artefacts=ArtefactStore(project.blobs, project.vault),
            key=key,
            actor=actor(),
            now=time.time,
            entropy=secrets.token_bytes,
            model_key=partial(open_model_key, key_directory(os.environ), project.public_keys, key_name(project.root)),
        )


@contextmanager
def open_to_read(root: Path, verb: str, environment: str | None = None) -> Iterator[Ledger]:
    """The ledger of the project at `root` for a command that only looks, if it may; nothing can be recorded.

    Raises:
        AccessError: who acts may not do `verb`, or their token is not valid.
    """
    project = Project(root)
    project.require()
    if not project.log.is_dir():
        raise NotFoundError(f"{root}: nothing has happened here yet; run `shipworthy ship --project {root}`")
    keys = PublicKeys(project.public_keys)
    with open_ledger(project.ledger_url(os.environ), project.log, None, time.time, keys=keys) as ledger:
        principal = acting_on(ledger, os.environ, actor(), time.time())
        authorise(principal, verb, Target(system_of(project, ledger), environment))
        yield ledger
