"""The configuration as text: the effective values as TOML, and docs/configuration.md from the schema.

Rule: nothing here knows a key; all comes from config_schema, so that the documentation can not differ from the code.
``python -m cyrusext.runtime.config_doc`` prints docs/configuration.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from cyrusext.backends import Backend
from cyrusext.runtime.config import DEFAULT_PATH, Config
from cyrusext.runtime.config_check import NOT_YET
from cyrusext.runtime.config_schema import SECTIONS, Section

_TYPE_WORDS = ((str, "string"), (bool, "bool"), (int, "int"), (float, "float"), (Path, "path"))

_HEAD = f"""\
# Configuration

One TOML file, by default `{DEFAULT_PATH}`; every command takes another with `-c FILE`. Every key has a
default, so that an empty file, or none at the default place, is a valid configuration of one machine with the embedded
store. Unknown keys and wrong types are errors that name file, key and what was expected. `cyrusext config show` prints
the effective values, `cyrusext config check` says what is wrong (exit status 78 for a fault, 1 for a notice). Secrets
are never in this file: it names the files that hold them.

Sizes are written `"512"`, `"64KiB"`, `"1MiB"`, `"2GiB"`; addresses `"host:port"`, `"[v6]:port"` or `"unix:/path"`; keys
that end in `_s` are seconds. A key marked *not yet* is read and checked, and setting it is reported by `config check`
and by the daemons at their start: its function is not in this version.

This page is generated from the schema: `python -m cyrusext.runtime.config_doc > docs/configuration.md`.
"""


def to_toml(config: Config) -> str:
    """Return the effective values of `config` as the text of a configuration file."""
    parts = []
    for name in SECTIONS:
        value = getattr(config, name)
        if name == "backends":
            parts += [_table(f"backends.{_key(backend.name)}", _backend_items(backend)) for backend in value.values()]
        elif value is not None:
            parts.append(_table(name, [(key, getattr(value, key)) for key in value.__struct_fields__]))
    return "\n".join(parts)


def document() -> str:
    """Return the text of docs/configuration.md."""
    return "\n".join([_HEAD, *(_section_page(name, kind) for name, kind in SECTIONS.items())])


def _section_page(name: str, kind: type[Section]) -> str:
    shown = "backends.NAME" if name == "backends" else name
    lines = [f"## [{shown}]", "", _first_line(kind), ""]
    if name == "ldap":
        lines += ["*Not yet*: a file with this section is refused.", ""]
    lines += ["| Key | Type | Default | Meaning |", "|---|---|---|---|"]
    for key, type_text, default, meaning in _rows(name, kind):
        lines.append(f"| `{key}` | {type_text} | `{default}` | {meaning} |")
    return "\n".join([*lines, ""])


def _rows(name: str, kind: type[Section]) -> Iterator[tuple[str, str, str, str]]:
    defaults = kind()
    hints = get_type_hints(kind, include_extras=True)
    for key in kind.__struct_fields__:
        meaning = _description(hints[key])
        if (name, key) in NOT_YET:
            meaning = f"{meaning} *Not yet*: {NOT_YET[name, key][1]}.".strip()
        yield key, _type_text(hints[key]), _value(getattr(defaults, key)).replace("|", "\\|"), meaning


def _first_line(kind: type[Section]) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0]


def _metas(hint: object) -> list[msgspec.Meta]:
    if get_origin(hint) is Annotated:
        return [meta for meta in get_args(hint)[1:] if isinstance(meta, msgspec.Meta)]
    return []


def _description(hint: object) -> str:
    return " ".join(meta.description for meta in _metas(hint) if meta.description)


def _type_text(hint: object) -> str:
    if get_origin(hint) is Annotated:
        bounds = []
        for meta in _metas(hint):
            for word, bound in (("≥", meta.ge), (">", meta.gt), ("≤", meta.le), ("<", meta.lt)):
                if bound is not None:
                    bounds.append(f"{word} {bound}")
        base = _type_text(get_args(hint)[0])
        return f"{base} {', '.join(bounds)}" if bounds else base
    if get_origin(hint) is Literal:
        return " or ".join(f'`"{choice}"`' for choice in get_args(hint))
    if get_origin(hint) is tuple:
        return f"list of {_type_text(get_args(hint)[0])}"
    if isinstance(hint, type) and issubclass(hint, Section):
        return "table"
    return next(word for kind, word in _TYPE_WORDS if hint is kind)


def _table(title: str, items: list[tuple[str, Any]]) -> str:
    return "\n".join([f"[{title}]", *(f"{_key(key)} = {_value(value)}" for key, value in items), ""])


def _backend_items(backend: Backend) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in backend._asdict().items() if key != "name"]


def _key(key: str) -> str:
    bare = key.replace("-", "").replace("_", "")
    return key if bare.isalnum() and bare.isascii() else _string(key)


def _string(text: str) -> str:
    # A JSON string without escaped non-ASCII is a TOML basic string, but for DEL, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return _string(str(value))
    if isinstance(value, tuple):
        return f"[{', '.join(_value(entry) for entry in value)}]"
    assert isinstance(value, Section), value
    pairs = (f"{key} = {_value(getattr(value, key))}" for key in value.__struct_fields__)
    return f"{{ {', '.join(pairs)} }}"


if __name__ == "__main__":
    sys.stdout.write(document())
