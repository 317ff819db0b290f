"""The hospital's messages: what one service tells others that need not answer at once, and how none is lost."""

from examples.hospital.messages.broker import Broker, BrokerAwayError, broker_of_url
from examples.hospital.messages.counts import Counts, CountsSnapshot
from examples.hospital.messages.delivery import DEAD_LETTERS, Handler, Redelivery
from examples.hospital.messages.inbox import Inbox, Work
from examples.hospital.messages.message import Message
from examples.hospital.messages.outbox import Outbox
from examples.hospital.messages.relay import Relay

__all__ = [
    "DEAD_LETTERS",
    "Broker",
    "BrokerAwayError",
    "Counts",
    "CountsSnapshot",
    "Handler",
    "Inbox",
    "Message",
    "Outbox",
    "Redelivery",
    "Relay",
    "Work",
    "broker_of_url",
]
