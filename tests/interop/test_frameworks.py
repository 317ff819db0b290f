"""Commands inside the frameworks that people use: each sees an ordinary function."""

from __future__ import annotations

import importlib
import inspect
import multiprocessing
import pickle
from types import ModuleType
from typing import Any

import httpx
import pytest

from resilient import Command, Fallback, Pipeline
from resilient.decorator import command
from tests.peers import require


def framework(name: str) -> ModuleType:
    """A framework, or the test skips."""
    try:
        return importlib.import_module(name)
    except ImportError:
        require(None, f"{name} is not installed")
        raise


def last_price(sku: str, quantity: int = 1, *, error: Exception) -> float:
    return 1.0


@command("frameworks.price", fallback=last_price)
def price(sku: str, quantity: int = 1) -> float:
    """The price of a number of pieces."""
    if sku == "down":
        raise ConnectionError(sku)
    return 9.5 * quantity


@command("frameworks.aprice", fallback=last_price, timeout=5.0)
async def aprice(sku: str, quantity: int = 1) -> float:
    """The same, awaited."""
    if sku == "down":
        raise ConnectionError(sku)
    return 9.5 * quantity


async def test_fastapi_takes_commands_as_dependencies_and_as_endpoints() -> None:
    """Parameters are read from the signature, sync and async."""
    fastapi = framework("fastapi")
    app = fastapi.FastAPI()

    @app.get("/depends")  # type: ignore[untyped-decorator]  # FastAPI is imported by its name
    async def depends(one: float = fastapi.Depends(price), two: float = fastapi.Depends(aprice)) -> list[float]:
        return [one, two]

    app.get("/endpoint")(aprice)

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        assert (await client.get("/depends", params={"sku": "apple", "quantity": 2})).json() == [19.0, 19.0]
        assert (await client.get("/depends", params={"sku": "down"})).json() == [1.0, 1.0]
        assert (await client.get("/endpoint", params={"sku": "apple"})).json() == 9.5
        assert (await client.get("/endpoint")).status_code == 422  # the sku is needed: the signature says so


def test_django_views_call_commands_in_their_own_thread() -> None:
    """Without a timeout nothing hops: the view's thread-locals are the command's; a view may be a command itself."""
    framework("django")
    settings: Any = importlib.import_module("django.conf").settings
    if not settings.configured:
        settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="test", USE_TZ=True)
        importlib.import_module("django").setup()
    http: Any = importlib.import_module("django.http")
    factory: Any = importlib.import_module("django.test").RequestFactory()

    @command("frameworks.view", fallback=lambda request, sku: http.JsonResponse({"price": None}))  # type: ignore[untyped-decorator]  # so is Django
    def view(request: Any, sku: str) -> Any:
        if sku == "broken":
            raise ConnectionError
        return http.JsonResponse({"price": price(sku)})

    assert view(factory.get("/"), "apple").content == b'{"price": 9.5}'
    assert view(factory.get("/"), "down").content == b'{"price": 1.0}'
    assert view(factory.get("/"), "broken").content == b'{"price": null}'
    assert Command.of(view).snapshot().fallbacks == 1


def test_celery_finds_a_tasks_function_by_its_name() -> None:
    """A task around a command is registered under the function's own name and runs it."""
    celery = framework("celery")
    app = celery.Celery("shop", broker="memory://", backend="cache+memory://")
    app.conf.task_always_eager = True
    task = app.task(price)
    assert task.name == f"{__name__}.price"
    assert task.delay("apple", quantity=2).get() == 19.0
    assert task.delay("down").get() == 1.0
    assert pickle.loads(pickle.dumps(task.run)) is price


@pytest.fixture
@command("frameworks.fixture", fallback=Fallback(value="nobody"))
def user() -> str:
    raise ConnectionError


def test_a_pytest_fixture_can_be_a_command(user: str) -> None:
    """pytest reads the signature and calls it."""
    assert user == "nobody"


def test_signatures_annotations_and_documentation_are_the_functions_own() -> None:
    """What tools look at."""
    for fn in (price, aprice):
        assert list(inspect.signature(fn).parameters) == ["sku", "quantity"]
        assert inspect.signature(fn).return_annotation == "float"
        assert inspect.getdoc(fn)
        assert fn.__module__ == __name__
    assert inspect.iscoroutinefunction(aprice)
    assert not inspect.iscoroutinefunction(price)


def test_decorated_functions_pickle_by_reference() -> None:
    """And run in another process, with a command of its own there."""
    for fn in (price, aprice):
        assert pickle.loads(pickle.dumps(fn)) is fn
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(price, ["apple", "down"]) == [9.5, 1.0]


class Shop:
    """Methods of every kind."""

    rate = 2.0

    @command("frameworks.method")
    def method(self, sku: str) -> float:
        return self.rate

    @classmethod
    @command("frameworks.class_method")
    def class_method(cls, sku: str) -> float:
        return cls.rate

    @command("frameworks.outer_class_method")
    @classmethod
    def outer_class_method(cls, sku: str) -> float:
        return cls.rate

    @staticmethod
    @command("frameworks.static_method")
    def static_method(sku: str) -> float:
        return Shop.rate

    @property
    @command("frameworks.property", fallback=Fallback(value=0.0))
    def discount(self) -> float:
        raise ConnectionError


def test_methods_of_every_kind_are_one_command_each() -> None:
    """All instances of a class share it; subclasses bind as usual."""

    class Outlet(Shop):
        rate = 1.0

    assert [Shop().method("x"), Outlet().method("x")] == [2.0, 1.0]
    assert [Shop.class_method("x"), Outlet.class_method("x"), Outlet().outer_class_method("x")] == [2.0, 1.0, 1.0]
    assert Shop.static_method("x") == 2.0
    assert Shop().discount == 0.0
    assert Command.of(Shop.method) is Command.of(Outlet().method)
    assert Command.of(Shop.method).snapshot().successes == 2
    assert Command.of(Shop.class_method).snapshot().successes == 2
    assert Command.of(vars(Shop)["discount"]).snapshot().fallbacks == 1


def test_a_command_and_a_pipeline_nest() -> None:
    """A decorated function is a function: other decorators go around it and inside it."""

    @command("frameworks.outer")
    @Pipeline(Fallback(value=3.0))
    def inner() -> float:
        raise ConnectionError

    assert inner() == 3.0
    assert Command.of(inner).snapshot().successes == 1
