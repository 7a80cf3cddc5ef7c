"""The inbox cache: a decorator of the store port that keeps the newest of each inbox in Redis."""

from coordd.cache.store import CachedStore

__all__ = ["CachedStore"]
