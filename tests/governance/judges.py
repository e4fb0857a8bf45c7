"""The OpenLineage project's own judge of an event: the types of its Python client."""

import importlib
import pkgutil
import types
import typing
from typing import Any

import attr
from openlineage.client import event_v2, generated
from openlineage.client.generated.base import EventType


def judge_event(event: dict[str, Any]) -> None:
    """Raise if the event, or a facet of it, is not as OpenLineage has it."""
    client = _client_event(event)
    assert client.run.runId == event["run"]["runId"]
    for dataset in (event, event["run"], event["job"], *event["inputs"], *event["outputs"]):
        for kind in ("facets", "inputFacets", "outputFacets"):
            for facet in dataset.get(kind, {}).values():
                name = facet["_schemaURL"].rpartition("/")[2]
                found = _CLASSES[name]
                assert facet["_schemaURL"] == found._get_schema()  # the version that the client speaks
                _conforms(facet, found, name)


def _client_event(event: dict[str, Any]) -> Any:
    def dataset(part: dict[str, Any], kind: Any) -> Any:
        return kind(**{name: value for name, value in part.items() if name in ("namespace", "name")})

    return event_v2.RunEvent(
        eventTime=event["eventTime"],
        producer=event["producer"],
        eventType=EventType(event["eventType"]),
        run=event_v2.Run(runId=event["run"]["runId"]),
        job=event_v2.Job(namespace=event["job"]["namespace"], name=event["job"]["name"]),
        inputs=[dataset(part, event_v2.InputDataset) for part in event["inputs"]],
        outputs=[dataset(part, event_v2.OutputDataset) for part in event["outputs"]],
    )


def _facet_classes() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(generated.__path__):
        loaded = importlib.import_module(f"{generated.__name__}.{module.name}")
        found |= {name: value for name, value in vars(loaded).items() if attr.has(value)}
    return found


_CLASSES = _facet_classes()


def _conforms(value: Any, kind: Any, where: str) -> None:
    """Refuse what the client's type does not have: an unknown key, a missing one, a value of another type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is not None:
            _conforms(value, next(part for part in arguments if part is not type(None)), where)
    elif origin is list:
        for at, item in enumerate(value):
            _conforms(item, arguments[0], f"{where}[{at}]")
    elif origin is dict:
        for key, item in value.items():
            _conforms(item, arguments[1], f"{where}.{key}")
    elif attr.has(kind):
        fields = {field.name: field for field in attr.fields(kind)}
        hints = typing.get_type_hints(kind)
        unknown = set(value) - set(fields)
        lacking = {name for name, field in fields.items() if field.default is attr.NOTHING} - set(value)
        assert not unknown, f"{where}: unknown {unknown}"
        assert not lacking, f"{where}: lacking {lacking}"
        for key, item in value.items():
            _conforms(item, hints[key], f"{where}.{key}")
    elif kind is float:
        assert isinstance(value, int | float), where
    elif kind is not Any:
        assert type(value) is kind, f"{where}: {value!r} is no {kind}"
