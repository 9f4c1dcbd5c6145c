"""Declarations (.pxd) that make C structures of a Python module's classes when Cython compiles it.

Rule: the module is the one source: a class with no base, or one such base, and with an ``__init__`` that sets all its
attributes gets them as fields and its plain methods as C functions; nothing is declared by hand that could be forgotten
when the module changes.  Uncompiled, the same module behaves the same (docs/decisions/router-speed.md).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

_CLASS = re.compile(r"^cdef class (\w+)", re.MULTILINE)
HEAD = "# Made from {name} by packaging/compiled_classes.py; not in the repository.\ncimport cython\n"


def declare(modules: Mapping[str, Path], written: Iterable[Path] = ()) -> list[Path]:
    """Write the declarations of `modules`, by name, beside them; return their paths.

    `written` are declarations that were written by hand, by paths from where modules are imported; their classes can be
    named, not derived from.
    """
    trees = {name: ast.parse(path.read_text("utf-8")).body for name, path in modules.items()}
    compiled: dict[str, dict[str, set[str]]] = {name: {} for name in trees}
    for path in written:
        name = ".".join(path.with_suffix("").parts)
        compiled[name] = {found: set() for found in _CLASS.findall(path.read_text("utf-8"))}
    for _ in range(2):  # a base is found before what derives from it
        for name, tree in trees.items():
            known = _known(tree, compiled) | compiled[name]
            for node in tree:
                if isinstance(node, ast.ClassDef) and (fields := _fields(node, known)) is not None:
                    compiled[name][node.name] = fields
    return [_declare(path, trees[name], compiled[name], compiled) for name, path in modules.items()]


def _known(tree: list[ast.stmt], compiled: Mapping[str, Mapping[str, set[str]]]) -> dict[str, set[str]]:
    """The compiled classes that a module imports, with their fields."""
    found = {}
    for node in tree:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            there = compiled.get(node.module, {})
            found |= {name.name: there[name.name] for name in node.names if name.name in there}
    return found


def _declare(
    module: Path, tree: list[ast.stmt], own: Mapping[str, set[str]], compiled: Mapping[str, Mapping[str, set[str]]]
) -> Path:
    """Write one file; it is left alone where it is right already."""
    text = HEAD.format(name=module.name)
    known = set(own)
    for node in tree:
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module in compiled:
            names = sorted({name.name for name in node.names} & set(compiled[node.module]))
            known.update(names)
            text += f"from {node.module} cimport {', '.join(names)}\n" if names else ""
    text += "".join(
        _class(node, known, own[node.name]) for node in tree if isinstance(node, ast.ClassDef) and node.name in own
    )
    declarations = module.with_suffix(".pxd")
    if not declarations.exists() or declarations.read_text("utf-8") != text:
        declarations.write_text(text, "utf-8")
    return declarations


def _fields(node: ast.ClassDef, known: Mapping[str, set[str]]) -> set[str] | None:
    """What the instances have, with what their base has; None for a class that stays as it is."""
    bases = [ast.unparse(base) for base in node.bases]
    if len(bases) > 1 or not set(bases) <= set(known):
        return None
    methods = [method for method in node.body if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)]
    fields = set().union(*(known[base] for base in bases))
    fields |= {field for method in methods if method.name == "__init__" for field in _set_in(method)}
    later = {field for method in methods if method.name != "__init__" for field in _set_in(method)}
    return fields if fields and later <= fields else None


def _set_in(method: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    return {
        target.attr
        for target in ast.walk(method)
        if isinstance(target, ast.Attribute) and isinstance(target.ctx, ast.Store)
        if isinstance(target.value, ast.Name) and target.value.id == "self"
    }


def _class(node: ast.ClassDef, known: set[str], fields: set[str]) -> str:
    types = _types(node, known)
    base = f"({ast.unparse(node.bases[0])})" if node.bases else ""
    lines = [f"\n\ncdef class {node.name}{base}:"]
    own = {
        field
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name == "__init__"
        for field in _set_in(method)
    }
    lines += [f"    cdef public {types.get(field, 'object')} {field}" for field in sorted(own)]
    items = _items(node, known)
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and _is_plain(method):
            if loops := _loops(method, items):
                lines.append(f"\n    @cython.locals({loops})")
            lines.append(f"    cpdef object {method.name}({_parameters(method, known)})")
    return "\n".join(lines) + "\n"


def _items(node: ast.ClassDef, known: set[str]) -> dict[str, str]:
    """The compiled classes of what is in lists, as ``__init__`` annotates them."""
    found = {}
    for statement in ast.walk(node):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Attribute):
            annotation = ast.unparse(statement.annotation)
            if annotation.startswith("list[") and annotation[5:-1] in known:
                found[statement.target.attr] = annotation[5:-1]
    return found


def _loops(method: ast.FunctionDef, items: Mapping[str, str]) -> str:
    """The variables of loops over such lists; none that is set elsewhere, too."""
    found: dict[str, str] = {}
    stored = [name.id for name in ast.walk(method) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)]
    for loop in ast.walk(method):
        if isinstance(loop, ast.For) and isinstance(loop.target, ast.Name):
            over = loop.iter.args[0] if isinstance(loop.iter, ast.Call) and loop.iter.args else loop.iter
            kind = items.get(over.attr) if isinstance(over, ast.Attribute) else None
            found[loop.target.id] = kind if kind and found.get(loop.target.id, kind) == kind else ""
    loops = {
        name: sum(isinstance(loop, ast.For) and ast.unparse(loop.target) == name for loop in ast.walk(method))
        for name in found
    }
    return ", ".join(f"{name}={kind}" for name, kind in found.items() if kind and stored.count(name) == loops[name])


def _types(node: ast.ClassDef, known: set[str]) -> dict[str, str]:
    """The compiled classes of fields, as ``__init__`` annotates them or makes them."""
    first = next(method for method in node.body if isinstance(method, ast.FunctionDef) and method.name == "__init__")
    given = {argument.arg: _named(argument.annotation, known) for argument in first.args.args}
    types: dict[str, str] = {}
    for statement in ast.walk(first):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Attribute):
            types[statement.target.attr] = _named(statement.annotation, known)
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Attribute):
            value = statement.value
            if isinstance(value, ast.Constant):
                types[statement.targets[0].attr] = _PLAIN.get(type(value.value), "object")
            elif isinstance(value, ast.Call):
                types[statement.targets[0].attr] = _named(value.func, known)
            elif isinstance(value, ast.Name):
                types[statement.targets[0].attr] = given.get(value.id, "object")
    return types


_PLAIN: dict[type, str] = {bool: "bint", float: "double"}
"""No integers: a peer may send one that C has no room for."""


def _named(annotation: ast.expr | None, known: set[str]) -> str:
    """The compiled class that an annotation names, with or without None."""
    if annotation is None:
        return "object"
    text = ast.unparse(annotation).removesuffix(" | None")
    return text if text in known else "object"


_CLOSES = (ast.Lambda, ast.GeneratorExp, ast.FunctionDef, ast.AsyncFunctionDef, ast.Yield, ast.YieldFrom, ast.Await)


def _is_plain(node: ast.stmt) -> bool:
    """Can it be a C function: nothing nested that keeps its variables, no keywords, no decorator?"""
    if not isinstance(node, ast.FunctionDef) or node.decorator_list or node.name.startswith("__"):
        return False
    arguments = node.args
    if arguments.kwonlyargs or arguments.vararg or arguments.kwarg or arguments.posonlyargs:
        return False
    return not any(isinstance(inner, _CLOSES) for statement in node.body for inner in ast.walk(statement))


def _parameters(node: ast.stmt, known: set[str]) -> str:
    assert isinstance(node, ast.FunctionDef)
    first, *others = node.args.args
    words = [first.arg]
    words += [f"{_named(argument.annotation, known)} {argument.arg}" for argument in others]
    required = len(words) - len(node.args.defaults)
    return ", ".join(word if place < required else f"{word}=*" for place, word in enumerate(words))
