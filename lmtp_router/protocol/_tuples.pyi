from typing import TypeVar

T = TypeVar("T")

def record(cls: type[T], *fields: object) -> T: ...
