"""Check a request against botocore's model of a service, maxima, enumerations and patterns too.

botocore's own validator checks presence, types, unknown names and minima only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import botocore.loaders
from botocore.model import OperationModel, Shape
from botocore.session import Session
from botocore.validate import ParamValidator


@cache
def operation(service: str, name: str) -> OperationModel:
    """Return the model of an operation."""
    return Session().get_service_model(service).operation_model(name)


def faults(service: str, name: str, request: dict[str, Any]) -> list[str]:
    """Return what the service's model forbids in a request; nothing for a valid one."""
    shape = operation(service, name).input_shape
    report = ParamValidator().validate(request, shape)
    own = [report.generate_report()] if report.has_errors() else []
    return own + list(_beyond_botocore("", request, shape))


def _beyond_botocore(path: str, value: Any, shape: Shape) -> Iterator[str]:
    constraints = shape.metadata
    if shape.type_name in ("string", "list", "map", "integer", "long"):
        size = value if isinstance(value, int) else len(value)
        if "max" in constraints and size > constraints["max"]:
            yield f"{path}: {size} is over the maximum {constraints['max']}"
        if "min" in constraints and size < constraints["min"]:
            yield f"{path}: {size} is under the minimum {constraints['min']}"
    match shape.type_name:
        case "string":
            if shape.enum and value not in shape.enum:
                yield f"{path}: {value!r} is not one of {shape.enum[:5]}…"
            pattern = constraints.get("pattern")
            if pattern and not re.fullmatch(_python(pattern), value):
                yield f"{path}: {value!r} does not match {pattern}"
        case "structure":
            for key, member in value.items():
                if key in shape.members:
                    yield from _beyond_botocore(f"{path}.{key}", member, shape.members[key])
        case "list":
            for index, member in enumerate(value):
                yield from _beyond_botocore(f"{path}[{index}]", member, shape.member)
        case "map":
            for key, member in value.items():
                yield from _beyond_botocore(f"{path}.{key} (key)", key, shape.key)
                yield from _beyond_botocore(f"{path}.{key}", member, shape.value)


def _python(pattern: str) -> str:
    """Return a pattern of Java's dialect in Python's."""
    for java, python in {r"\p{L}": r"\w", r"\p{Z}": " ", r"\p{N}": r"\d"}.items():
        pattern = pattern.replace(java, python)
    return pattern.replace(r"\p{Alnum}", "A-Za-z0-9")


def enumeration(service: str, shape: str) -> list[str]:
    """Return the values of an enumeration in the service's model."""
    model = botocore.loaders.Loader().load_service_model(service, "service-2")
    return list(model["shapes"][shape]["enum"])
