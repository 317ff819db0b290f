"""Route files: every mistake at once, with its path, before the first request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resilient import Bulkhead, CircuitBreaker
from resilient.errors import ConfigError
from resilient.gateway import Answer, Gateway
from resilient.policies.timeout import Timeout

STATIC = "static://patient=127.0.0.1:1;ward=127.0.0.1:2"


def mistakes(routes: Any, **more: Any) -> dict[str, str]:
    """What is told about each path."""
    more.setdefault("discovery", STATIC)
    with pytest.raises(ConfigError) as refused:
        Gateway(routes, **more)
    lines = str(refused.value).split("\n  ")
    assert f"{len(lines) - 1} mistake" in lines[0]
    return dict(line.split(": ", 1) for line in lines[1:])


def test_a_file_makes_a_gateway(tmp_path: Path) -> None:
    """All tables."""
    file = tmp_path / "routes.toml"
    file.write_text(
        """
        discovery = "static://patient=127.0.0.1:1"

        [gateway]
        trusted_proxies = ["10.0.0.0/8"]

        [defaults]
        timeout = 2.0
        breaker = { failure_rate = 0.3 }

        [routes.patient]
        path = "/patient"
        service = "patient"
        strip_prefix = true
        bulkhead = { limit = 20 }
        retry = false
        idle_timeout = false
        fallback = "forward:/fallback/patient"

        [routes.other]
        path = "/"
        url = "http://127.0.0.1:9/base"
        timeout = 5.0
        breaker = false

        [fallbacks]
        "/fallback/patient" = { text = "Patient information is currently unavailable", status = 503 }
        """
    )
    gateway = Gateway.from_file(file)
    assert repr(gateway) == "<Gateway 2 routes, 0 requests under way>"
    patient, other = gateway.pipelines["patient"].layers, gateway.pipelines["other"].layers
    assert [layer.kind for layer in patient] == ["timeout", "circuit_breaker", "bulkhead"]
    assert [layer.kind for layer in other] == ["timeout", "retry"]
    assert isinstance(patient[0], Timeout)
    assert patient[0].seconds == 2.0
    assert isinstance(patient[1], CircuitBreaker)
    assert patient[1].settings.failure_rate == 0.3
    assert patient[1].name == "patient"


def test_every_mistake_is_told_at_once_with_its_path() -> None:
    """And with what it may have meant."""
    found = mistakes(
        {
            "patient": {
                "path": "/patient/**",
                "servce": "patient",
                "timeout": -1,
                "braker": {},
                "retry": {"attempts": 0, "atempts": 2},
                "bulkhead": {"kind": "thread_pool_bulkhead"},
            },
            "ward": {"path": "/ward", "service": "wart", "fallback": "forward:/fallback/wart"},
            "finance": 5,
            "all": {"service": "patient"},
        },
        defaults={"path": "/", "timeout": "soon"},
        settings={"max_headers": 0, "trusted_proxies": ["10.0.0.0/99"], "drane": 1},
        fallbacks={"/fallback/ward": 5, "x": "sorry", "/y": {"txt": "a"}, "/fallback/wards": "sorry"},
    )
    assert {
        "routes.patient.path",
        "routes.patient.servce",
        "routes.patient",
        "routes.patient.timeout",
        "routes.patient.braker",
        "routes.patient.retry.attempts",
        "routes.patient.retry.atempts",
        "routes.patient.bulkhead",
        "routes.ward.service",
        "routes.ward.fallback",
        "routes.finance",
        "routes.all.path",
        "defaults.path",
        "defaults.timeout",
        "gateway.max_headers",
        "gateway.trusted_proxies",
        "gateway.drane",
        'fallbacks."/fallback/ward"',
        "fallbacks.x",
        'fallbacks."/y".txt',
        'fallbacks."/y"',
    } == set(found)
    assert "did you mean 'service'?" in found["routes.patient.servce"]
    assert "did you mean 'breaker'?" in found["routes.patient.braker"]
    assert "did you mean '/fallback/ward" in found["routes.ward.fallback"]
    assert "did you mean 'drain'?" in found["gateway.drane"]
    assert "write it without a star" in found["routes.patient.path"]


def test_an_unknown_service_is_told_where_all_are_known() -> None:
    """A registry may hear of it later; a list that is written down never changes."""
    assert "did you mean 'patient'?" in mistakes({"p": {"path": "/", "service": "patien"}})["routes.p.service"]
    assert "did you mean 'ward'?" in mistakes({"p": {"path": "/", "url": "http://wards/base"}})["routes.p.url"]
    later = Gateway({"p": {"path": "/", "service": "patien"}}, discovery="eureka://127.0.0.1:1")
    assert list(later.pipelines) == ["p"]


def test_a_service_without_a_discovery_is_a_mistake() -> None:
    """Its name would be looked up by nobody."""
    assert "no discovery" in mistakes({"p": {"path": "/", "service": "p"}}, discovery=None)["routes.p.service"]


@pytest.mark.parametrize("routes", [{}, [], {5: {}}, None])
def test_a_gateway_without_routes_is_a_mistake(routes: Any) -> None:
    """It would only say 404."""
    assert "routes" in mistakes(routes)


def test_a_discovery_that_is_none_is_refused() -> None:
    """Before anything else is looked at."""
    with pytest.raises(ConfigError, match="discovery must be"):
        Gateway({"p": {"path": "/", "service": "p"}}, discovery=5)  # type: ignore[arg-type]  # that is the mistake


@pytest.mark.parametrize(("text", "said"), [("[routes", "is no TOML"), (None, "can not be read")])
def test_a_file_that_can_not_be_read_is_told_by_its_name(tmp_path: Path, text: str | None, said: str) -> None:
    """Absent, or no TOML."""
    file = tmp_path / "routes.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        Gateway.from_file(file)
    with pytest.raises(ConfigError, match="must be a path"):
        Gateway.from_file(5)  # type: ignore[arg-type]  # that is the mistake


def test_an_unknown_table_of_a_file_is_a_mistake(tmp_path: Path) -> None:
    """`[route.x]` is easily written."""
    file = tmp_path / "routes.toml"
    file.write_text('discovery = "static://a=b:1"\n[route.a]\npath = "/"\n')
    with pytest.raises(ConfigError, match=r"route: there is no table 'route'; did you mean 'routes'\?"):
        Gateway.from_file(file)


def test_policies_may_be_objects_in_code() -> None:
    """For those who make a gateway from a mapping."""
    breaker = CircuitBreaker("mine")
    gateway = Gateway({"p": {"path": "/", "service": "ward", "breaker": breaker, "retry": False}}, discovery=STATIC)
    assert gateway.pipelines["p"].layers[1] is breaker
    wrong = mistakes({"p": {"path": "/", "service": "ward", "breaker": Bulkhead(), "bulkhead": 5}})
    assert set(wrong) == {"routes.p.breaker", "routes.p.bulkhead"}


def test_a_route_without_any_policy_only_forwards() -> None:
    """All of them can be switched off."""
    table = {"path": "/", "service": "ward", "timeout": False, "breaker": False, "retry": False}
    assert dict(Gateway({"p": table}, discovery=STATIC).pipelines) == {}


def test_a_handler_may_be_named_in_a_file() -> None:
    """As module:name; its status it says itself."""
    routes = {"p": {"path": "/", "service": "ward", "fallback": "forward:/f"}}
    made = Gateway(routes, discovery=STATIC, fallbacks={"/f": {"handler": "json:dumps"}})
    assert list(made.pipelines) == ["p"]
    wrong = {"/f": {"handler": "json:dump_"}, "/g": {"handler": "json:dumps", "status": 500}}
    assert set(mistakes(routes, fallbacks=wrong)) == {'fallbacks."/f"', 'fallbacks."/g"'}


def test_an_answer_checks_its_status() -> None:
    """When it is made."""
    with pytest.raises(ConfigError, match="status"):
        Answer("x", status=42)


def test_code_says_more_than_the_file(tmp_path: Path) -> None:
    """Its discovery and its handlers win."""
    file = tmp_path / "routes.toml"
    file.write_text(
        'discovery = "static://other=a:1"\n[routes.a]\npath = "/"\nservice = "ward"\nfallback = "forward:/b"\n'
        '[fallbacks]\n"/a" = "text"\n'
    )
    gateway = Gateway.from_file(file, discovery=STATIC, fallbacks={"/b": lambda: "sorry"})
    assert list(gateway.pipelines) == ["a"]


def test_a_setting_of_the_wrong_kind_is_told_with_its_path() -> None:
    """Tables, kinds and names."""
    found = mistakes(
        {"p": {"path": "/", "service": "ward", "bulkhead": {"kind": "retry"}}},
        settings={"via": "two words", "trusted_proxies": "10.0.0.0/8"},
        fallbacks={"/a": {"text": "a", "json": 1}},
        defaults={"idle_timeout": False, "fallback": False},
    )
    assert set(found) == {"routes.p.bulkhead.kind", "gateway.via", "gateway.trusted_proxies", 'fallbacks."/a"'}
