"""The state of a sandbox between calls (stored answers, files, batches), in bounded shelves per provider."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

SHELF_ITEMS_MAX = 20_000
SHELF_BYTES_MAX = 64 * 1024 * 1024


class Shelf:
    """Items by id, oldest first; the oldest are dropped if there are too many items or bytes."""

    def __init__(self, items_max: int = SHELF_ITEMS_MAX, bytes_max: int = SHELF_BYTES_MAX) -> None:
        self._items: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._size_bytes = 0

    def put(self, item_id: str, item: Any, size_bytes: int = 0) -> None:
        """Store an item, replacing one with the same id. An item larger than the shelf is not kept."""
        self.pop(item_id)
        self._items[item_id] = (item, size_bytes)
        self._size_bytes += size_bytes
        while len(self._items) > self._items_max or self._size_bytes > self._bytes_max:
            self._size_bytes -= self._items.popitem(last=False)[1][1]

    def get(self, item_id: str) -> Any | None:
        """The item, or None."""
        found = self._items.get(item_id)
        return found[0] if found else None

    def pop(self, item_id: str) -> Any | None:
        """Remove and return an item, or None."""
        found = self._items.pop(item_id, None)
        if found is None:
            return None
        self._size_bytes -= found[1]
        return found[0]

    def all(self) -> list[Any]:
        """Every item, oldest first."""
        return [item for item, _ in self._items.values()]


class Store:
    """The shelves of one sandbox by name. Used only by the server thread."""

    def __init__(self) -> None:
        self._shelves: dict[str, Shelf] = {}
        # Tasks that handlers have started, for the application to follow.
        self.begun: list[Any] = []

    def shelf(self, name: str) -> Shelf:
        """The shelf of this name, created if needed."""
        return self._shelves.setdefault(name, Shelf())
