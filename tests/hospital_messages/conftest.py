"""A real NATS server for each test, and a place for what happens."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from examples.hospital.messages.local_broker import LocalBroker, LocalBrokerError, server_binary
from tests.hospital_messages.kafka_cluster import KafkaCluster
from tests.peers import require


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalBroker]:
    """A NATS server that runs, and is gone after the test."""
    try:
        server_binary()
    except LocalBrokerError as error:
        require(condition=False, reason=str(error))
    with LocalBroker(tmp_path / "nats") as running:
        yield running


@pytest.fixture
def cluster() -> Iterator[KafkaCluster]:
    """A Kafka cluster that is gone after the test."""
    require(find_spec("confluent_kafka"), "confluent-kafka is not installed")
    with KafkaCluster() as running:
        yield running
