"""Croissant: a snapshot described for tools that load data sets. Pure.

Source: Croissant 1.0 (docs.mlcommons.org/croissant), and the RAI vocabulary for personal data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
PARQUET = "application/x-parquet"
FILES, ROWS = "files", "rows"  # ids of the set of files and of the records
TYPES = {
    "float": "sc:Float",
    "int": "sc:Integer",
    "bool": "sc:Boolean",
    "category": "sc:Text",
    "text": "sc:Text",
    "datetime": "sc:DateTime",
}
CONTEXT: dict[str, Any] = {  # of the specification, the same in every document
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


@dataclass(frozen=True, slots=True)
class Field:
    """A column of the snapshot."""

    name: str
    kind: str  # as the contract has it
    description: str | None = None
    is_personal: bool = False


@dataclass(frozen=True, slots=True)
class DataFile:
    """A Parquet file of the snapshot."""

    path: str  # relative to the description, with /
    sha256: str  # hexadecimal
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Described:
    """What there is to say of a snapshot."""

    system: str
    purpose: str
    owner: str
    snapshot: str  # digest
    version: int
    taken: str  # RFC 3339
    rows: int
    key: str | None
    fields: Sequence[Field]
    files: Sequence[DataFile]


def to_croissant(described: Described) -> dict[str, Any]:
    """The description in JSON-LD; of the same snapshot in the same place the same."""
    personal = [field.name for field in described.fields if field.is_personal]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": described.system,
        "description": (
            f"{described.purpose} The {described.rows:,} rows of snapshot {described.snapshot}, "
            "accepted under the system's contract."
        ),
        "identifier": described.snapshot,
        "url": f"urn:shipworthy:snapshot:{described.snapshot.removeprefix('sha256:')}",
        "version": f"{described.version}.0.0",
        "datePublished": described.taken,
        "creator": {"@type": "sc:Organization", "name": described.owner},
        **({"rai:personalSensitiveInformation": personal} if personal else {}),
        "distribution": _distribution(described.files),
        "recordSet": [_records(described)],
    }


def _distribution(files: Sequence[DataFile]) -> list[dict[str, Any]]:
    objects = [
        {
            "@type": "cr:FileObject",
            "@id": f"file-{number}",
            "name": f"file-{number}",
            "contentUrl": file.path,
            "contentSize": f"{file.size_bytes} B",
            "encodingFormat": PARQUET,
            "sha256": file.sha256,
        }
        for number, file in enumerate(files, 1)
    ]
    if len(files) == 1:
        return objects
    together = {
        "@type": "cr:FileSet",
        "@id": FILES,
        "name": FILES,
        "encodingFormat": PARQUET,
        "includes": [file.path for file in files],
    }
    return [*objects, together]


def _records(described: Described) -> dict[str, Any]:
    source = {"fileSet": {"@id": FILES}} if len(described.files) > 1 else {"fileObject": {"@id": "file-1"}}
    return {
        "@type": "cr:RecordSet",
        "@id": ROWS,
        "name": ROWS,
        **({} if described.key is None else {"key": {"@id": f"{ROWS}/{described.key}"}}),
        "field": [_field(field, source) for field in described.fields],
    }


def _field(field: Field, source: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{ROWS}/{field.name}",
        "name": field.name,
        **({} if field.description is None else {"description": field.description}),
        "dataType": TYPES[field.kind],
        "source": {**source, "extract": {"column": field.name}},
    }
