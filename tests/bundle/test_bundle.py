"""What travels to a server: whole or refused, at every moment."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from shipworthy.bundle.deployment import (
    bundle_path,
    read_access,
    read_deployment,
    replace_file,
    write_access,
    write_bundle,
    write_deployment,
    write_payload,
)
from shipworthy.bundle.format import (
    LOOKUPS,
    STATEMENT_MEDIA,
    Access,
    AccessToken,
    Baselines,
    DeployedRelease,
    Deployment,
    FeatureField,
    LookupField,
    LookupTable,
    Policy,
    ReleasePredicate,
    ReleaseStatement,
    Schema,
    Subject,
)
from shipworthy.bundle.verify import verify_bundle, verify_payload
from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import IntegrityError, NotFoundError, StorageError
from shipworthy.security.keys import SigningKey
from shipworthy.security.signing import sign_envelope
from tests.conftest import Seen

KEY = SigningKey.from_seed("test", bytes(32))
KEYS = {KEY.public.keyid: KEY.public}
MUTATIONS = int(os.environ.get("SHIPWORTHY_SOAK", "0")) or 300
FILES = {
    "model.onnx": bytes(range(256)) * 8,  # never loaded here
    "schema.json": msgspec.json.encode(Schema(system="loans", features=(), context=(), derived=(), columns=())),
    "policy.json": msgspec.json.encode(Policy(task="binary", fallback_otherwise="refer", timeout_s=1.0)),
    "baselines.json": msgspec.json.encode(Baselines(columns=())),
}
CARD = b"# card"


def make_statement(payload: str, **changes: object) -> ReleaseStatement:
    nothing = digest_bytes(b"")
    fields: dict[str, object] = {
        "system": "loans",
        "version": 7,
        "payload": payload,
        "contract": nothing,
        "code": nothing,
        "snapshot": nothing,
        "run": "run_1",
        "verdicts": nothing,
        "card": digest_bytes(CARD),
        "bill_of_materials": nothing,
        "author": "ann",
        "created": "2026-01-01T00:00:00Z",
    }
    predicate = msgspec.convert({**fields, **changes}, ReleasePredicate)
    subject = Subject(name="loans:7", digest={"sha256": payload.removeprefix("sha256:")})
    return ReleaseStatement(subject=(subject,), predicate=predicate)


def sign(statement: ReleaseStatement) -> bytes:
    return sign_envelope(msgspec.json.encode(statement), STATEMENT_MEDIA, KEY)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    payload = write_payload(tmp_path / "payload", "loans", "binary", FILES)
    contents = {path.name: path.read_bytes() for path in (tmp_path / "payload").iterdir()}
    return write_bundle(tmp_path / "live" / "local", sign(make_statement(payload)), contents, {"card.md": CARD})


def test_what_was_written_is_read_back_whole(bundle: Path) -> None:
    read = verify_bundle(bundle, KEYS)
    assert read.release == "loans:7"
    assert read.payload.model == FILES["model.onnx"]
    assert read.digest == digest_bytes((bundle / "release.json").read_bytes())
    assert bundle.name == read.digest.removeprefix("sha256:")
    assert verify_payload(bundle / "payload", read.payload.digest).manifest.system == "loans"


def test_the_same_files_give_the_same_digest_and_bundle(tmp_path: Path, bundle: Path) -> None:
    again = write_payload(tmp_path / "again", "loans", "binary", dict(reversed(FILES.items())))
    assert again == verify_bundle(bundle, KEYS).payload.digest
    contents = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert write_bundle(tmp_path / "live" / "local", (bundle / "release.json").read_bytes(), contents) == bundle


def flip_bit(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content))])


def append(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.randint(1, 9)))


def remove(path: Path, chance: random.Random) -> None:
    path.unlink()


def add_file(path: Path, chance: random.Random) -> None:
    (path.parent / f"extra-{chance.randrange(100)}").write_bytes(b"x")


def replace_by_link(path: Path, chance: random.Random) -> None:
    aside = path.parents[3] / "aside"
    aside.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(aside)


def replace_by_pipe(path: Path, chance: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def swap(path: Path, chance: random.Random) -> None:
    other = chance.choice([each for each in sorted(path.parent.iterdir()) if each.is_file() and each != path])
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


MUTANTS: list[Callable[[Path, random.Random], None]] = [
    flip_bit,
    truncate,
    append,
    remove,
    add_file,
    replace_by_link,
    replace_by_pipe,
    swap,
]


def test_every_mutated_bundle_is_refused(bundle: Path, seen: Seen) -> None:
    chance = random.Random(16)
    originals = {path: path.read_bytes() for path in sorted(bundle.rglob("*")) if path.is_file()}
    accepted = []
    for number in range(MUTATIONS):
        mutate, path = MUTANTS[number % len(MUTANTS)], chance.choice(list(originals))
        if path.name == "card.md" and mutate is remove:
            continue  # the card is bound but need not travel
        mutate(path, chance)
        try:
            verify_bundle(bundle, KEYS)
            accepted.append((mutate.__name__, path.name))
        except IntegrityError as error:
            assert str(bundle) in str(error)  # noqa: PT017
        for stray in bundle.rglob("*"):
            if not stray.is_dir():
                stray.unlink()
        for place, content in originals.items():
            place.write_bytes(content)
    assert accepted == []
    verify_bundle(bundle, KEYS)
    seen("mutations refused", MUTATIONS - len(accepted))


def test_a_payload_directory_that_is_a_link_is_refused(bundle: Path, tmp_path: Path) -> None:
    (bundle / "payload").rename(tmp_path / "elsewhere")
    (bundle / "payload").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="a link"):
        verify_bundle(bundle, KEYS)


def test_the_bytes_that_were_verified_are_those_returned(bundle: Path) -> None:
    read = verify_bundle(bundle, KEYS)
    (bundle / "payload" / "model.onnx").write_bytes(b"swapped after the check")
    assert digest_bytes(read.payload.model) == read.payload.manifest.files["model.onnx"].digest


def test_a_statement_of_a_stranger_is_refused(bundle: Path) -> None:
    stranger = SigningKey.from_seed("stranger", b"x" * 32)
    with pytest.raises(IntegrityError, match=r"release\.json: No key known here"):
        verify_bundle(bundle, {stranger.public.keyid: stranger.public})


def test_a_payload_of_another_release_is_refused(bundle: Path, tmp_path: Path) -> None:
    other = write_payload(tmp_path / "other", "loans", "binary", {**FILES, "model.onnx": b"other"})
    for path in (tmp_path / "other").iterdir():
        (bundle / "payload" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(IntegrityError, match=rf"manifest.json has digest {other}"):
        verify_bundle(bundle, KEYS)


def test_the_same_payload_under_another_system_is_refused(tmp_path: Path) -> None:
    payload = write_payload(tmp_path / "payload", "loans", "binary", FILES)
    contents = {path.name: path.read_bytes() for path in (tmp_path / "payload").iterdir()}
    bundle = write_bundle(tmp_path / "local", sign(make_statement(payload, system="other")), contents)
    with pytest.raises(IntegrityError, match="the payload is of system loans, the release of other"):
        verify_bundle(bundle, KEYS)


def test_a_bundle_under_another_digest_is_refused(bundle: Path) -> None:
    with pytest.raises(IntegrityError, match="was expected"):
        verify_bundle(bundle, KEYS, digest_bytes(b"another"))


def test_a_payload_needs_exactly_its_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no payload has exactly the files model.onnx"):
        write_payload(tmp_path / "p", "loans", "binary", {"model.onnx": b""})


# --- deployment and access


def deployment_of(bundle: Path, generation: int = 1, **changes: object) -> Deployment:
    read = verify_bundle(bundle, KEYS)
    release = DeployedRelease(release=read.release, digest=read.digest, payload=read.payload.digest, share=1.0)
    fields: dict[str, object] = {
        "system": "loans",
        "environment": "local",
        "generation": generation,
        "salt": "s",
        "releases": (release,),
        **changes,
    }
    return msgspec.convert(msgspec.to_builtins(fields), Deployment)


def test_a_deployment_is_read_back(bundle: Path) -> None:
    live = bundle.parents[1]
    deployment = deployment_of(bundle)
    write_deployment(live, deployment, KEY)
    assert read_deployment(live, KEYS) == deployment
    assert bundle_path(live, deployment.releases[0].digest) == bundle


def test_a_deployment_without_its_bundle_is_not_written(bundle: Path) -> None:
    deployment = deployment_of(bundle)
    bundle.rename(bundle.with_name("away"))
    with pytest.raises(IntegrityError, match="write the bundle of loans:7"):
        write_deployment(bundle.parents[1], deployment, KEY)


def test_shares_must_sum_to_one(bundle: Path) -> None:
    release = msgspec.structs.replace(deployment_of(bundle).releases[0], share=0.5)
    with pytest.raises(IntegrityError, match=r"sum to 0\.5"):
        write_deployment(bundle.parents[1], deployment_of(bundle, releases=(release,)), KEY)


def test_a_changed_deployment_is_refused(bundle: Path) -> None:
    live = bundle.parents[1]
    write_deployment(live, deployment_of(bundle), KEY)
    content = bytearray((live / "deployment").read_bytes())
    content[len(content) // 2] ^= 1
    (live / "deployment").write_bytes(content)
    with pytest.raises(IntegrityError, match="deployment"):
        read_deployment(live, KEYS)


def test_an_access_file_cannot_pose_as_a_deployment(bundle: Path) -> None:
    live = bundle.parents[1]
    token = AccessToken(name="t", hash="0" * 64, scopes=("predict:loans",), expires=None)
    access = Access(environment="local", generation=1, tokens=(token,))
    write_access(live, access, KEY)
    assert read_access(live, KEYS) == access
    (live / "deployment").write_bytes((live / "access").read_bytes())
    with pytest.raises(IntegrityError, match="was expected"):
        read_deployment(live, KEYS)


def test_nothing_deployed_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing is deployed"):
        read_deployment(tmp_path, KEYS)


def test_a_refused_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "deployment"
    target.mkdir()  # cannot be replaced by a file
    (target / "old").write_bytes(b"old")
    with pytest.raises(StorageError, match="cannot be written"):
        replace_file(target, b"new")
    assert (target / "old").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["deployment"]


LOOKED_UP = Schema(
    system="loans",
    features=(FeatureField(name="rate", kind="float", lookup="rates"), FeatureField(name="bank", kind="text")),
    context=(),
    derived=(),
    columns=("rate",),
    lookups=(LookupField(name="rates", key=("bank",)),),
)
RATES = {"rates": LookupTable(key=(["a"],), columns={"rate": [1.5]})}


def test_tables_of_lookups_travel_with_the_payload(tmp_path: Path) -> None:
    files = {**FILES, "schema.json": msgspec.json.encode(LOOKED_UP), LOOKUPS: msgspec.msgpack.encode(RATES)}
    write_payload(tmp_path / "payload", "loans", "binary", files)
    verified = verify_payload(tmp_path / "payload")
    assert verified.lookups == RATES
    assert verified.as_recorded().lookups == {}
    assert verified.as_recorded().schema.asked == verified.as_recorded().schema.features


def test_a_table_that_was_changed_is_not_read(tmp_path: Path) -> None:
    files = {**FILES, "schema.json": msgspec.json.encode(LOOKED_UP), LOOKUPS: msgspec.msgpack.encode(RATES)}
    digest = write_payload(tmp_path / "payload", "loans", "binary", files)
    content = (tmp_path / "payload" / LOOKUPS).read_bytes()
    (tmp_path / "payload" / LOOKUPS).write_bytes(content.replace(b"a", b"b", 1))
    with pytest.raises(IntegrityError, match=f"{LOOKUPS} has digest"):
        verify_payload(tmp_path / "payload", digest)


UNNAMED = {
    "a table that the schema does not name": (FILES["schema.json"], msgspec.msgpack.encode(RATES), "names none"),
    "no table": (msgspec.json.encode(LOOKED_UP), None, "has the tables of none; schema.json names rates"),
    "another table": (msgspec.json.encode(LOOKED_UP), msgspec.msgpack.encode({"x": RATES["rates"]}), "the tables x;"),
    "no tables at all": (msgspec.json.encode(LOOKED_UP), b"\xff", "does not hold tables of lookups"),
    "code": (msgspec.json.encode(LOOKED_UP), b"cos\nsystem\n(S'true'\ntR.", "does not hold tables of lookups"),
}


@pytest.mark.parametrize("case", UNNAMED)
def test_a_payload_has_exactly_the_tables_of_its_schema(case: str, tmp_path: Path) -> None:
    schema, tables, words = UNNAMED[case]
    files = {**FILES, "schema.json": schema, **({} if tables is None else {LOOKUPS: tables})}
    write_payload(tmp_path / "payload", "loans", "binary", files)
    with pytest.raises(IntegrityError, match=words):
        verify_payload(tmp_path / "payload")
