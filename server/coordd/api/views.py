"""The shapes of requests and answers that are not nouns of the model themselves.

Hot answers are written by hand; their shapes stand here for the OpenAPI document, and the tests
compare real answers with it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from coordd.model import BATCH_MAX, Agent, Group, Message, Name, NewMessage
from coordd.store import Change

DESCRIPTION_BYTES_MAX = 4096
MEMBERS_MAX = 100
EPOCH_MAX = 2**53

Epoch = Annotated[int, Meta(ge=0, le=EPOCH_MAX)]


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """Requests refuse keys they do not know."""


Batch = Annotated[list[NewMessage], Meta(min_length=1, max_length=BATCH_MAX)]


class DeliveryView(msgspec.Struct):
    """A recipient and the place in that inbox."""

    to_agent: str
    seq: int


class ReceiptView(msgspec.Struct):
    """A message that is durable. `seq` is the first delivery's."""

    id: str
    seq: int
    thread_id: str
    created_at: str
    deliveries: list[DeliveryView]


class ReceiptsView(msgspec.Struct):
    """The receipts of a batch, in its order."""

    receipts: list[ReceiptView]


class PageView(msgspec.Struct):
    """A piece of a list of messages; `next_cursor` is null at the end."""

    messages: list[Message]
    next_cursor: str | None
    last_seq: int


class AgentBody(Strict):
    """What an agent says of itself."""

    description: Annotated[str, Meta(max_length=DESCRIPTION_BYTES_MAX)]


class AgentsView(msgspec.Struct):
    """The registry."""

    agents: list[Agent]


class GroupBody(Strict):
    """The members of a group; those before are replaced."""

    members: Annotated[list[Name], Meta(max_length=MEMBERS_MAX)]


class GroupsView(msgspec.Struct):
    """All groups."""

    groups: list[Group]


class HealthView(msgspec.Struct):
    """The process answers."""

    status: Literal["ok"]
    version: str


class ReadyView(msgspec.Struct):
    """A message could be stored within this second."""

    status: Literal["ready"]


class TokenBody(Strict):
    """Whose token it is to be."""

    agent: Name


class TokenView(msgspec.Struct):
    """A token without its secret."""

    keyid: str
    agent: str
    created_at: str
    revoked_at: str | None
    admin: bool


class TokensView(msgspec.Struct):
    """All tokens, revoked ones too."""

    tokens: list[TokenView]


class NewTokenView(msgspec.Struct):
    """A new token; its text is shown this once."""

    keyid: str
    agent: str
    created_at: str
    token: str


class ImportBody(Strict):
    """Changes of a feed, in order."""

    changes: list[Change]


class EpochBody(Strict):
    """The epoch of a seal; each is above the one before."""

    epoch: Epoch


class SealView(msgspec.Struct):
    """The epoch and the feed's last position."""

    epoch: int
    last: int
