"""What is refused where it is given, each with a sentence."""

from __future__ import annotations

import pytest

from examples.hospital.messages import Message, Redelivery, broker_of_url
from examples.hospital.messages.message import UnreadableBodyError, checked_id, checked_topic, decode, encode
from resilient import ConfigError


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("amqp://127.0.0.1:5672", "begins with nats:// or kafka://"),
        ("127.0.0.1:4222", "begins with nats:// or kafka://"),
        ("", "begins with nats:// or kafka://"),
        ("nats://127.0.0.1", "the port is missing"),
        ("nats://127.0.0.1:0", "the port is missing"),
        ("nats://:4222", "the host is missing"),
        ("nats://127.0.0.1:99999", "cannot be read"),
        ("nats://127.0.0.1:4222x", "cannot be read"),
        ("nats://user:secret@127.0.0.1:4222", "a host and a port and nothing else"),
        ("kafka://127.0.0.1:9092/topic", "a host and a port and nothing else"),
        (4222, "must be text"),
    ],
)
def test_an_address_that_is_none_is_refused_with_a_sentence(url: str, says: str) -> None:
    """It says what is wrong and what an address looks like, and does not repeat a password."""
    with pytest.raises(ConfigError, match=says) as caught:
        broker_of_url(url)
    assert "nats://127.0.0.1:4222" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.path == "url"


@pytest.mark.parametrize("topic", ["", "a b", "a.b", "a*", ">", "ä", "a" * 101, None, "a\n"])
def test_a_topic_is_one_word(topic: str) -> None:
    """What NATS or Kafka would take for something else is no topic."""
    with pytest.raises(ConfigError, match="letters, digits"):
        checked_topic(topic)


@pytest.mark.parametrize("message_id", ["", "a b", "a\r\nX: y", "é", "a" * 201, 7])
def test_an_id_fits_into_a_header(message_id: str) -> None:
    """Nobody smuggles a header in by an id."""
    with pytest.raises(ConfigError, match="visible ASCII"):
        checked_id(message_id)


@pytest.mark.parametrize(
    "body", [[1], {"x": object()}, {"x": float("nan")}, {"x": "y" * 262_144}, {"x": {1, 2}}, "text"]
)
def test_a_body_is_what_json_can_say_and_not_too_long(body: dict[str, object]) -> None:
    """It is refused in the caller's transaction, not later by the broker, where it would stop all behind it."""
    with pytest.raises(ConfigError) as caught:
        encode(body)
    assert caught.value.path == "body"


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"7", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_cannot_be_read(data: bytes) -> None:
    """Others may publish to the same topic."""
    with pytest.raises(UnreadableBodyError):
        decode(data)


def test_a_message_does_not_show_its_body() -> None:
    """It names patients, and a log is read by many."""
    assert "Ada" not in repr(Message("1", "open_invoice", {"patient": "Ada"}))


@pytest.mark.parametrize("setting", [{"attempts": 0}, {"first_pause": 0}, {"silence": -1}, {"handler_timeout": "x"}])
def test_a_redelivery_that_cannot_be_is_refused(setting: dict[str, float]) -> None:
    """Its settings are checked where they are given."""
    with pytest.raises(ConfigError, match=next(iter(setting))):
        Redelivery(**setting)  # type: ignore[arg-type]


def test_pauses_grow_up_to_a_limit() -> None:
    """Doubled each time, and never without end."""
    redelivery = Redelivery(first_pause=0.5, longest_pause=3.0)
    assert [redelivery.pause(attempt) for attempt in (1, 2, 3, 4, 5000)] == [0.5, 1.0, 2.0, 3.0, 3.0]


async def test_a_broker_is_used_inside_its_block() -> None:
    """Outside there is no connection, and nobody who would close one."""
    broker = broker_of_url("nats://127.0.0.1:4222")
    with pytest.raises(RuntimeError, match="async with"):
        await broker.publish("open_invoice", {}, id="1")
