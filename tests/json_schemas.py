"""The JSON Schema files of docs/schemas: what commands write against them, and the page that lists every field.

`python -m tests.json_schemas` writes docs/json.md anew, from the schema files and the text before its first table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from tests.shape_of_the_code import ROOT

FOLDER, PAGE = ROOT / "docs/schemas", ROOT / "docs/json.md"
ORDER = ("fold", "fleet", "explain", "verify", "selftest", "bench", "recalibrate", "evaluate", "doctor")
TYPES = {"boolean": "true or false", "null": "null", "object": "object"}
Schema = Mapping[str, Any]


def file_of(name: str) -> str:
    """bnfold.fold/1 -> fold-1.json"""
    return f"{name.removeprefix('bnfold.').replace('/', '-')}.json"


@cache
def schemas() -> dict[str, Schema]:
    """Each schema by the name of its file, as it stands there."""
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}


def closed(schema: Any) -> Any:
    """A schema that allows no field but those that it names: in tests, a new field is a mistake until it is in the file."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    return made if "properties" not in made else {"additionalProperties": False, **made}


@cache
def validators() -> dict[str, Any]:
    """For each file what judges payloads by it, in the strict sense of `closed`."""
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    strict = {name: closed(schema) for name, schema in schemas().items()}
    registry = Registry().with_resources([(name, Resource.from_contents(each)) for name, each in strict.items()])
    return {name: Draft202012Validator(each, registry=registry) for name, each in strict.items()}


def problems(payload: Schema) -> list[str]:
    """Where a payload is not what the schema that it names says."""
    errors = validators()[file_of(payload["schema"])].iter_errors(payload)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in errors]


def kind(schema: Schema) -> str:
    """The type of a field, in words."""
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "oneOf" in schema:
        return " or ".join(kind(each) for each in schema["oneOf"])
    if "$ref" in schema:
        file, _, part = schema["$ref"].partition("#/$defs/")
        return " of ".join(
            filter(None, [part, f"bnfold.{file.removesuffix('.json').replace('-', '/')}" if file else ""])
        )
    if "enum" in schema:
        return ", ".join(f'"{each}"' for each in schema["enum"])
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return " or ".join(_plain(name, schema) for name in names)


def _plain(name: str, schema: Schema) -> str:
    if name == "array":
        items = schema["items"] or {"type": "array", "items": {"type": "string"}}
        return "list of " + ("[name, size]" if "prefixItems" in items else kind(items))
    if isinstance(schema.get("additionalProperties"), dict):
        return f"name: {kind(schema['additionalProperties'])}"
    return TYPES.get(name, name)


def rows(schema: Schema, before: str = "") -> Iterator[tuple[str, str, str]]:
    """Name, type and meaning of each field; those of an object that has no name of its own follow it."""
    for name, field in schema["properties"].items():
        always = name in schema.get("required", ())
        yield f"{before}{name}", kind(field) + ("" if always else ", may be absent"), field["description"]
        if "properties" in field:
            yield from rows(field, f"{before}{name}.")


def table(schema: Schema) -> list[str]:
    lines = [f"| `{name}` | {kind} | {meaning} |" for name, kind, meaning in rows(schema)]
    return [schema["description"], "", "| field | type | meaning |", "|---|---|---|", *lines, ""]


def section(name: str) -> list[str]:
    """The part of the page about one schema: its fields, then those of the objects in it."""
    schema = schemas()[f"{name}-1.json"]
    lines = [f"## {schema['title']}", "", f"[schemas/{name}-1.json](schemas/{name}-1.json)", "", *table(schema)]
    for part, inner in schema.get("$defs", {}).items():
        lines += [f"**{part}**: {table(inner)[0]}", *table(inner)[1:]]
    return lines


def page() -> str:
    """The page as it should be: its text as it is, the tables from the schema files."""
    text = PAGE.read_text(encoding="utf-8").split("\n## bnfold.")[0].rstrip()
    return "\n".join([text, "", *(line for name in ORDER for line in section(name))])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
