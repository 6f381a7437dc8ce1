"""`APIRegistry`: finds the routes of the internal API by category and adds them to a FastAPI application."""

from __future__ import annotations

import importlib
import logging
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Literal, TypeAlias, get_args

from ..errors import InvalidArgumentError, MissingExtraError
from ..observability import event
from ..outside import described
from ..process import ModuleLock
from .errors import APIModuleError, APIRegistrationError, DuplicateRouteError

try:
    import fastapi.routing
    from fastapi import APIRouter, FastAPI
except ImportError as missing:
    raise MissingExtraError("the internal API server", missing.name or "fastapi", "api") from missing

APICategory = Literal["common", "vllm", "controller"]
"""The folders of this package in which routes are looked for."""

CATEGORIES: Final[tuple[APICategory, ...]] = get_args(APICategory)

ENTRY_POINT_GROUP: Final = "lmcache_connect.apis"
"""An installed package declares `name = "package.module:router"` in this group, or `"package.module"` for a module that
has a `router`. A name such as `vllm.mine` puts it into that category; any other goes with `common`."""

MODULE_SUFFIX: Final = "_api"

_PACKAGE: Final = __name__.rpartition(".")[0]
_APPLICATION: Final = "the application itself"

Route: TypeAlias = tuple[str, str]
"""A method and a path."""


@dataclass(frozen=True)
class RegisteredAPI:
    """A router that was added. `source` is its module, or its name at registration. `routes` read `GET /version`."""

    category: APICategory
    source: str
    routes: tuple[str, ...]


@dataclass(frozen=True)
class _Offer:
    """A router that may be added. `load` imports it."""

    category: APICategory
    source: str
    load: Callable[[], Any]
    is_ours: bool = False


@dataclass
class _Added:
    """The routers of one application. Kept on the application, so that a second registry for it adds nothing twice."""

    apis: dict[str, RegisteredAPI] = field(default_factory=dict)
    routers: dict[str, APIRouter] = field(default_factory=dict)
    first_other: Any = None
    """The first of the application's routes that comes from other people's routers."""

    def source_of(self, router: APIRouter) -> str | None:
        """The source that a router was added under; None where it was not added."""
        return next((source for source, known in self.routers.items() if known is router), None)


_offered: list[_Offer] = []
_offers_lock: Final = ModuleLock()


def register_router(router: APIRouter, *, category: APICategory = "common", source: str | None = None) -> None:
    """Offers a router to every registry whose `register_all_apis` is called from now on: one router per `source`.

    `source` names it in messages and in `RegisteredAPI`; by default the module of its first endpoint.

    Raises:
        InvalidArgumentError: not an `APIRouter`, an unknown category, or a source that has another router.
    """
    offer = _offer_of(router, category, source)
    with _offers_lock:
        for other in _offered:
            if other.source == offer.source:
                if other.load() is router:
                    return
                raise _second_router(offer.source)
        _offered.append(offer)


def unregister_router(router: APIRouter) -> bool:
    """Withdraws a router from those on offer. Returns whether it was there. Applications that have it keep it."""
    with _offers_lock:
        kept = [offer for offer in _offered if offer.load() is not router]
        found = len(kept) < len(_offered)
        _offered[:] = kept
    return found


class APIRegistry:
    """Adds the routes of modules `<category>/*_api.py` to an application, each of which has an `APIRouter` `router`.

    A new module in one of the folders is found by its name. Other packages add routes through the entry point group
    `lmcache_connect.apis` or with `register_router`. Routes that need a manager answer 503 until the application
    has one: see `attach`.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._failures: tuple[APIModuleError, ...] = ()

    @property
    def app(self) -> FastAPI:
        """The application that routes are added to."""
        return self._app

    @property
    def registered(self) -> tuple[RegisteredAPI, ...]:
        """Everything that was added to the application, in the order of adding."""
        return tuple(self._added.apis.values())

    @property
    def failures(self) -> tuple[APIModuleError, ...]:
        """The modules that the last `register_all_apis` could not add, and why."""
        return self._failures

    def register_all_apis(
        self, categories: Sequence[APICategory] | None = None, *, strict: bool = False
    ) -> tuple[RegisteredAPI, ...]:
        """Adds the routes of these categories, by default of all. Returns what this call added.

        Our modules come first, by category in the order given and by name. Then come other people's: entry points by
        name, and registered routers. Their routes answer what none of ours does, whenever ours is added, so that a
        `/{path:path}` of theirs hides nothing. A module is left out where it cannot be imported, has no router, or has
        a path that is taken or is one of ours. It is then logged as the event `api_module_failed`, and kept in
        `failures`. What was added before is not added again.

        Raises:
            InvalidArgumentError: a category does not exist. Nothing was added then.
            APIRegistrationError: `strict` is on and something was left out. The others were added.
        """
        added: list[RegisteredAPI] = []
        failures: list[APIModuleError] = []
        wanted = _checked(categories)
        for offer in (*_each(_own_offers, wanted), *_each(_other_offers, wanted)):
            if offer.source in self._added.apis:
                continue
            try:
                router = _loaded(offer)
                if self._added.source_of(router) is None:
                    added.append(self._include(offer, router))
            except APIModuleError as failure:
                event(logging.ERROR, "api_module_failed", module=offer.source, error=str(failure))
                failures.append(failure)
        self._failures = tuple(failures)
        if strict and failures:
            raise APIRegistrationError(map(str, failures))
        return tuple(added)

    def register_router(
        self, router: APIRouter, *, category: APICategory = "common", source: str | None = None
    ) -> RegisteredAPI:
        """Adds one router to this application alone. A router that it has already stays as it is.

        Raises:
            InvalidArgumentError: not an `APIRouter`, an unknown category, or a source that has another router.
            DuplicateRouteError: one of its paths is taken. Nothing was added then.
        """
        offer = _offer_of(router, category, source)
        if (known := self._added.source_of(router)) is not None:
            return self._added.apis[known]
        if offer.source in self._added.apis:
            raise _second_router(offer.source)
        return self._include(offer, router)

    # ------------------------------------------------------------------------------------------------- inside

    @property
    def _added(self) -> _Added:
        state = self._app.state
        if not isinstance(getattr(state, "lmcache_connect_apis", None), _Added):
            state.lmcache_connect_apis = _Added()
        added: _Added = state.lmcache_connect_apis
        return added

    def _include(self, offer: _Offer, router: APIRouter) -> RegisteredAPI:
        routes = list(dict.fromkeys(_routes(router.routes)))
        taken = {_normal(route): source for source, route in self._taken()}
        if not offer.is_ours:  # also where ours is not served: it may be added later
            taken |= _own_routes()
        for method, path in routes:
            if (other := taken.get(_normal((method, path)))) is not None:
                raise DuplicateRouteError(offer.source, f"{method} {path}", other)
        others = self._app.router.routes
        before = len(others)
        self._app.include_router(router)
        if offer.is_ours and self._added.first_other is not None:  # the first route that fits a request answers it
            ours = others[before:]
            del others[before:]
            others[(at := others.index(self._added.first_other)) : at] = ours
        elif not offer.is_ours and self._added.first_other is None and len(others) > before:
            self._added.first_other = others[before]
        self._app.openapi_schema = None  # FastAPI makes it again when it is asked for
        api = RegisteredAPI(offer.category, offer.source, tuple(f"{method} {path}" for method, path in routes))
        self._added.apis[offer.source] = api
        self._added.routers[offer.source] = router
        return api

    def _taken(self) -> Iterator[tuple[str, Route]]:
        for route in _routes(self._app.routes):
            yield _APPLICATION, route
        for api in self._added.apis.values():  # they are in the application's routes too, but here they have a name
            for text in api.routes:
                method, _, path = text.partition(" ")
                yield api.source, (method, path)


def _checked(categories: Sequence[APICategory] | None) -> tuple[APICategory, ...]:
    if categories is None:
        return CATEGORIES
    expected = f"expected a list of some of {', '.join(map(repr, CATEGORIES))}, or None for all"
    if isinstance(categories, str):
        raise InvalidArgumentError("categories", f"{categories!r} is a string; {expected}")
    for category in categories:
        if category not in CATEGORIES:
            raise InvalidArgumentError("categories", f"{category!r} is not a category; {expected}")
    return tuple(dict.fromkeys(categories))


def _each(offers: Callable[[APICategory], Iterable[_Offer]], categories: Iterable[APICategory]) -> Iterator[_Offer]:
    for category in categories:
        yield from offers(category)


def _own_offers(category: APICategory) -> Iterator[_Offer]:
    package = importlib.import_module(f"{_PACKAGE}.{category}")
    for name in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
        if name.endswith(MODULE_SUFFIX):
            module = f"{package.__name__}.{name}"
            yield _Offer(category, module, partial(importlib.import_module, module), is_ours=True)


def _other_offers(category: APICategory) -> Iterator[_Offer]:
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: (entry.name, entry.value)):
        if _category_of(entry) == category:
            yield _Offer(category, entry.value, entry.load)
    with _offers_lock:
        offered = [offer for offer in _offered if offer.category == category]
    yield from offered


def _own_routes() -> dict[Route, str]:
    """The routes of all of our modules, with the module of each."""
    found: dict[Route, str] = {}
    for offer in _each(_own_offers, CATEGORIES):
        try:
            router = _loaded(offer)
        except APIModuleError:  # `register_all_apis` says so where it is asked for
            continue
        found |= {_normal(route): offer.source for route in _routes(router.routes)}
    return found


def _offer_of(router: object, category: APICategory, source: str | None) -> _Offer:
    if not isinstance(router, APIRouter):
        raise InvalidArgumentError("router", f"a {type(router).__qualname__}; expected a fastapi.APIRouter")
    _checked([category])
    if source is None:
        endpoints = (getattr(route, "endpoint", None) for route in _flat(router.routes))
        source = str(next((endpoint.__module__ for endpoint in endpoints if endpoint is not None), "a router"))
    return _Offer(category, source, lambda: router)


def _second_router(source: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        "source", f"{source!r} has registered another router; pass source= for a name of its own"
    )


def _category_of(entry: EntryPoint) -> APICategory:
    head = entry.name.partition(".")[0]
    for category in CATEGORIES:
        if category == head:
            return category
    return "common"


def _loaded(offer: _Offer) -> APIRouter:
    try:
        found = offer.load()
        router = found if isinstance(found, APIRouter) else getattr(found, "router", None)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a foreign module does at import, the others are still added
        raise APIModuleError(offer.source, f"importing it raised {described(error)}") from error
    if not isinstance(router, APIRouter):
        what = "has no `router`" if router is None else f"has a `router` that is a {type(router).__qualname__}"
        raise APIModuleError(offer.source, f"it {what}; expected a fastapi.APIRouter of this name")
    return router


def _routes(routes: Iterable[Any]) -> Iterator[Route]:
    for route in _flat(routes):
        path = getattr(route, "path", None)
        if path is not None:
            for method in sorted(getattr(route, "methods", None) or {"ANY"}):  # a mounted application has none
                yield method, path


def _flat(routes: Iterable[Any]) -> Iterable[Any]:
    """The routes, and in their place those of included routers: FastAPI before 0.137 copied them, and keeps none."""
    flatten = getattr(fastapi.routing, "iter_route_contexts", None)
    return list(routes) if flatten is None else flatten(list(routes))


def _normal(route: Route) -> Route:
    """Equal for routes that answer the same requests: the names of parameters do not count."""
    method, path = route
    return method, re.sub(r"\{[^}]*\}", "{}", path)
