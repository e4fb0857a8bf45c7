"""`serve`: what is deployed, verified, with an example of a request. Needs no ledger."""

from dataclasses import dataclass
from typing import Any

from shipworthy.bundle.deployment import bundle_path, read_deployment
from shipworthy.bundle.format import FeatureField
from shipworthy.bundle.verify import VerifiedBundle, verify_bundle
from shipworthy.kernel.errors import NotFoundError
from shipworthy.security.keys import load_public_keys
from shipworthy.workflows.layout import Project


@dataclass(frozen=True, slots=True)
class Target:
    """What a server of an environment will answer for."""

    system: str
    release: str
    example: dict[str, Any]  # a request that is answered

    @property
    def path(self) -> str:
        """The plain endpoint."""
        return f"/v1/systems/{self.system}/predict"


def find_target(project: Project, environment: str) -> Target:
    """What is deployed in `environment`, verified.

    Raises:
        NotFoundError: nothing is.
        IntegrityError: what is deployed does not hold.
    """
    live = project.live(environment)
    keys = load_public_keys(project.public_keys)
    try:
        deployment = read_deployment(live, keys)
    except NotFoundError:
        raise NotFoundError(f"nothing is deployed in {environment}; run `shipworthy ship` first") from None
    if not deployment.releases:
        raise NotFoundError(f"nothing is deployed in {environment}; run `shipworthy ship` first")
    bundle = verify_bundle(bundle_path(live, deployment.releases[0].digest), keys)
    return Target(deployment.system, bundle.release, example_request(bundle))


def example_request(bundle: VerifiedBundle) -> dict[str, Any]:
    """A request in the middle of what the model was trained on."""
    middle = {column.name: column.reference for column in bundle.payload.baselines.columns}
    inputs = {field.name: _example_value(field, middle.get(field.name)) for field in bundle.payload.schema.features}
    context = {
        field.name: field.values[0] if field.values else f"example-{field.name}"
        for field in bundle.payload.schema.context
        if field.required
    }
    request: dict[str, Any] = {"inputs": {name: value for name, value in inputs.items() if value is not None}}
    return request | ({"context": context} if context else {})


def _example_value(field: FeatureField, reference: float | None) -> Any:
    if field.kind == "category":
        return (field.values or ("",))[int(reference or 0)]
    if field.kind == "bool":
        return bool(reference)
    if field.kind == "text":
        return "example"
    if field.kind == "datetime":
        return "2026-01-01T12:00:00Z"
    if reference is None:
        return None if field.missing == "allow" else field.low or 0
    value = min(max(reference, field.low if field.low is not None else reference), field.high or reference)
    return round(value) if field.kind == "int" else float(f"{value:.6g}")
