"""`computed`: a property that is computed on first use, without a lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class computed(Generic[T]):  # noqa: N801 - used as a decorator, like `property`
    """Keeps what `compute` returned in the object's `__dict__`, where it hides this descriptor from then on.

    `functools.cached_property` of Python 3.11 holds a lock meanwhile, one for all objects of a class. A fork inherits
    it, held for ever if another thread of the parent had it. Here two threads may both compute the value.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, obj: None, owner: type) -> computed[T]: ...

    @overload
    def __get__(self, obj: object, owner: type) -> T: ...

    def __get__(self, obj: object | None, owner: type) -> computed[T] | T:
        if obj is None:
            return self
        value = obj.__dict__[self._name] = self._compute(obj)
        return value
