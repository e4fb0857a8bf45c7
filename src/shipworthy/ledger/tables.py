"""The tables: the events, and what they say now (projections, which `rebuild` makes again from the log).

Bodies are canonical JSON text, so that both databases hold the same bytes.
"""

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Named, Table, Text, TypedColumns

REVISIONS = ("0001", "0002")  # every migration in order; the last is what this version of the code works on

metadata = MetaData()

_Key = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER is the row's own key in SQLite


class EventColumns(TypedColumns):
    """One row for each entry of the log."""

    seq = Column(_Key, primary_key=True, autoincrement=False)
    batch: Named[int] = Column(BigInteger)  # first seq of the transaction that wrote this
    verb: Named[str] = Column(Text)
    object: Named[str] = Column(Text)
    entry: Named[str] = Column(Text)  # the bytes that the log hashes


class ArtefactColumns(TypedColumns):
    """What is known of an artefact, from the first event that named it."""

    digest = Column(Text, primary_key=True)
    kind: Named[str] = Column(Text)
    size_bytes: Named[int] = Column(BigInteger)
    seq: Named[int] = Column(BigInteger)


class LinkColumns(TypedColumns):
    """Lineage: `child` came out of `parent`."""

    parent = Column(Text, primary_key=True)
    relation = Column(Text, primary_key=True)
    child = Column(Text, primary_key=True)
    seq: Named[int] = Column(BigInteger)


class StageColumns(TypedColumns):
    """Finished stages by key; the latest wins."""

    key = Column(Text, primary_key=True)
    name: Named[str] = Column(Text)
    body: Named[str] = Column(Text)
    seq: Named[int] = Column(BigInteger)


class SnapshotColumns(TypedColumns):
    """Snapshots by digest; the first stays."""

    digest = Column(Text, primary_key=True)
    body: Named[str] = Column(Text)
    seq: Named[int] = Column(BigInteger)


class RunColumns(TypedColumns):
    """Finished runs by id."""

    run = Column(Text, primary_key=True)
    body: Named[str] = Column(Text)
    seq: Named[int] = Column(BigInteger)


class ReleaseColumns(TypedColumns):
    """Published releases; versions of a system are gapless."""

    system = Column(Text, primary_key=True)
    version = Column(Integer, primary_key=True, autoincrement=False)
    digest: Named[str] = Column(Text, unique=True)
    payload: Named[str] = Column(Text)
    body: Named[str] = Column(Text)
    seq: Named[int] = Column(BigInteger)


class DeploymentColumns(TypedColumns):
    """Every generation of each environment's deployment; the highest is current."""

    environment = Column(Text, primary_key=True)
    generation = Column(Integer, primary_key=True, autoincrement=False)
    body: Named[str] = Column(Text)
    seq: Named[int] = Column(BigInteger)


class TokenColumns(TypedColumns):
    """Tokens by hash."""

    hash = Column(Text, primary_key=True)
    name: Named[str] = Column(Text)
    body: Named[str] = Column(Text)
    seq: Named[int] = Column(BigInteger)


class AnchorColumns(TypedColumns):
    """Checkpoints that were exported."""

    seq = Column(_Key, primary_key=True, autoincrement=False)
    size: Named[int] = Column(BigInteger)
    body: Named[str] = Column(Text)


class LatestColumns(TypedColumns):
    """The latest word on a thing that changes: an alert, a rollout, a principal."""

    kind = Column(Text, primary_key=True)
    name = Column(Text, primary_key=True)
    revision: Named[int] = Column(BigInteger)  # from 1, without a gap
    body: Named[str] = Column(Text)
    seq: Named[int] = Column(BigInteger)


events = Table("events", metadata, EventColumns)
Index("events_verb", events.c.verb, events.c.seq)
Index("events_object", events.c.object, events.c.seq)
artefacts = Table("artefacts", metadata, ArtefactColumns)
links = Table("links", metadata, LinkColumns)
Index("links_child", links.c.child)
stages = Table("stages", metadata, StageColumns)
snapshots = Table("snapshots", metadata, SnapshotColumns)
runs = Table("runs", metadata, RunColumns)
releases = Table("releases", metadata, ReleaseColumns)
deployments = Table("deployments", metadata, DeploymentColumns)
tokens = Table("tokens", metadata, TokenColumns)
anchors = Table("anchors", metadata, AnchorColumns)
latest = Table("latest", metadata, LatestColumns)
