"""The table of values in a chart's README, from the comments in values.yaml and the types in values.schema.json.

A comment that begins with `# --` belongs to the key below it, with the comment lines that follow. It may stand above a single
value or above a whole map; every value must be covered by one. Reads the part of YAML that a values.yaml needs: maps by
indentation, and values on one line.
"""

import json
import re
from dataclasses import dataclass, field

BEGIN = "<!-- values: from values.yaml, by charts/generate -->"
END = "<!-- end of values -->"

KEY = re.compile(r"^( *)([A-Za-z0-9_.-]+):(?: (.*))?$")


class BadValues(Exception):
    """The values, their comments and their schema do not fit together."""


@dataclass
class Node:
    path: str
    doc: str | None
    # As it is written; None for a map of further nodes.
    value: str | None = None
    children: list["Node"] = field(default_factory=list)


def rendered(readme: str, values: str, schema: str) -> str:
    """`readme` with a new table between the two marks."""
    before, _, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise BadValues(f"the README has no place for its values: {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{table(parse(values), json.loads(schema))}{END}{after}"


def table(nodes: list[Node], schema: dict) -> str:
    check_closed(schema, "")
    check_same_keys(nodes, resolve(schema, schema), schema, "")
    lines = ["| value | type | default | meaning |", "|---|---|---|---|"]
    for node in documented(nodes):
        lines.append(f"| `{node.path}` | {type_of(node.path, schema)} | `{flow(node)}` | {node.doc} |")
    return "\n".join(lines) + "\n"


def parse(text: str) -> list[Node]:
    roots: list[Node] = []
    # Maps that are open, with the indentation of their keys.
    open_maps: list[tuple[int, list[Node], str]] = [(0, roots, "")]
    doc: list[str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("# -- "):
            doc = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("#"):
            if doc is not None:
                doc.append(stripped.removeprefix("#").strip())
        elif not stripped:
            doc = None
        elif stripped != "{}":
            match = KEY.match(line)
            if not match:
                raise BadValues(f"values.yaml:{number}: neither a comment nor a key: {stripped}")
            indent, key, value = len(match[1]), match[2], match[3]
            while indent < open_maps[-1][0]:
                open_maps.pop()
            if indent != open_maps[-1][0]:
                raise BadValues(f"values.yaml:{number}: indented by {indent} characters, expected {open_maps[-1][0]}")
            _, siblings, prefix = open_maps[-1]
            value = re.sub(r"\s+#.*$", "", value) if value else None
            node = Node(f"{prefix}{key}", " ".join(doc) if doc else None, value)
            siblings.append(node)
            doc = None
            if value is None:
                open_maps.append((indent + 2, node.children, f"{node.path}."))
    return roots


def documented(nodes: list[Node]) -> list[Node]:
    found = []
    for node in nodes:
        if node.doc:
            found.append(node)
        elif node.children:
            found.extend(documented(node.children))
        else:
            raise BadValues(f"values.yaml: {node.path} has no comment that begins with `# --`, and neither has a map around it")
    return found


def flow(node: Node) -> str:
    if node.value is not None:
        return node.value
    return "{" + ", ".join(f"{child.path.rsplit('.', 1)[1]}: {flow(child)}" for child in node.children) + "}"


def type_of(path: str, schema: dict) -> str:
    node = resolve(schema, schema)
    for key in path.split("."):
        node = resolve(node["properties"][key], schema)
    kind = node.get("type")
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if kind == "array":
        return "list"
    if kind == "object":
        return "map of text" if isinstance(node.get("additionalProperties"), dict) else "object"
    if kind == "integer" and "maximum" in node:
        return f"integer, {node['minimum']} to {node['maximum']}"
    return {"string": "text"}.get(kind, kind)


def resolve(node: dict, schema: dict) -> dict:
    reference = node.get("$ref")
    return schema["$defs"][reference.removeprefix("#/$defs/")] if reference else node


def check_closed(node: object, path: str) -> None:
    """A schema that lets a misspelt value pass has no purpose."""
    if isinstance(node, dict):
        if "properties" in node and node.get("additionalProperties") is not False and node.get("type") == "object":
            raise BadValues(f"values.schema.json: {path or '/'} lacks additionalProperties: false")
        for key, child in node.items():
            check_closed(child, f"{path}/{key}")
    elif isinstance(node, list):
        for child in node:
            check_closed(child, path)


def check_same_keys(nodes: list[Node], expected: dict, schema: dict, path: str, whole: bool = False) -> None:
    """Every value is allowed, and every allowed one is there, but for what may be left out of a map that is a value as a whole."""
    known = expected.get("properties")
    if known is None:
        return
    here = {node.path.removeprefix(path): node for node in nodes}
    missing = [] if whole else sorted(set(known) - set(here) - {"global"})
    surplus = sorted(set(here) - set(known))
    if surplus or missing:
        raise BadValues(f"below {path or '/'}, only the schema has {missing}, only values.yaml has {surplus}")
    for key, node in here.items():
        if node.children:
            check_same_keys(node.children, resolve(known[key], schema), schema, f"{path}{key}.", whole or bool(node.doc))
