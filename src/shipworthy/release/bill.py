"""The bill of materials: the model and every package that made it, as CycloneDX JSON.

Source: CycloneDX 1.6, cyclonedx.org/docs/1.6/json.
"""

import importlib.metadata
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shipworthy import __version__
from shipworthy.kernel.digest import Json, canonical_json

_NAMESPACE = uuid.UUID("6f0a4d2e-0c57-5c1b-9d53-1f7d8f1f3a10")  # of this product's bills


@dataclass(frozen=True, slots=True)
class Package:
    """One installed package."""

    name: str
    version: str
    license: str | None = None  # SPDX expression


def describe_packages(versions: Mapping[str, str]) -> tuple[Package, ...]:
    """The packages of `versions` with the licences that their metadata states, sorted by name.

    A package that is not installed here, or in another version, has no licence.
    """
    return tuple(
        Package(name, version, _license(name, version)) for name, version in sorted(versions.items(), key=_by_name)
    )


def bill_of_materials(
    *, system: str, version: int, payload: str, model: str, model_kind: str, packages: Sequence[Package], created: str
) -> bytes:
    """The bill of one release; the same arguments give the same bytes.

    Args:
        system: the system's name.
        version: of the release.
        payload: digest of the payload.
        model: digest of the ONNX model, or of the source of a Python model.
        model_kind: in the words of its library.
        packages: what training loaded.
        created: RFC 3339, UTC.
    """
    root = f"release:{system}:{version}"
    parts: list[Json] = [_model(system, version, model, model_kind), *(_package(package) for package in packages)]
    references: list[Json] = [f"model:{model}", *(_reference(package) for package in packages)]
    return canonical_json(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{root} {payload} {created}')}",
            "version": 1,
            "metadata": {
                "timestamp": created,
                "tools": {"components": [{"type": "application", "name": "shipworthy", "version": __version__}]},
                "component": {
                    "type": "application",
                    "bom-ref": root,
                    "name": system,
                    "version": str(version),
                    "hashes": [_hash(payload)],
                },
            },
            "components": parts,
            "dependencies": [{"ref": root, "dependsOn": references}],
        }
    )


def _by_name(item: tuple[str, str]) -> str:
    return item[0].lower()


def _license(name: str, version: str) -> str | None:
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    named = found.metadata.json.get("license_expression")
    return named if found.version == version and isinstance(named, str) else None


def _hash(digest: str) -> Json:
    return {"alg": "SHA-256", "content": digest.removeprefix("sha256:")}


def _reference(package: Package) -> str:
    return f"pkg:pypi/{package.name.lower().replace('_', '-')}@{package.version}"


def _model(system: str, version: int, digest: str, kind: str) -> Json:
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{digest}",
        "name": f"{system}-model",
        "version": str(version),
        "description": kind,
        "hashes": [_hash(digest)],
    }


def _package(package: Package) -> Json:
    found: dict[str, Json] = {
        "type": "library",
        "bom-ref": _reference(package),
        "name": package.name,
        "version": package.version,
        "purl": _reference(package),
    }
    if package.license:
        found["licenses"] = [{"expression": package.license}]
    return found
