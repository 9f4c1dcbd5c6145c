from cyrusext.index._cyx import Reader
from cyrusext.wire.framer import Framer

class Finds:
    asker: object
    def __init__(self, reader: Reader) -> None: ...
    def answer(self, framer: Framer, limit: int) -> tuple[bytes, bool | None]: ...
