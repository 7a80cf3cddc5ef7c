"""Agents and groups."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from coordd.api import params, views
from coordd.auth import Auth
from coordd.http.request import Answer, Request
from coordd.http.router import Route
from coordd.model import Agent, Group, is_name
from coordd.problems import Fault, Problem, invalid, not_found
from coordd.rules import (
    checked_name,
    checked_text,
    decode,
    decoder_of,
    name_problem,
)
from coordd.store import Store

_decode_agent = decoder_of(views.AgentBody)
_decode_group = decoder_of(views.GroupBody)


class Registry:
    """What agents say of themselves, and the groups."""

    def __init__(self, auth: Auth, store: Store) -> None:
        self._auth = auth
        self._store = store

    async def _agents(self, request: Request) -> Answer:
        self._auth.identity(request)
        return msgspec.json.encode(views.AgentsView(await self._store.agents()))

    async def _agent(self, request: Request) -> Answer:
        self._auth.identity(request)
        agent = await self._store.agent(_name_of(request))
        if agent is None:
            raise not_found("entry")
        return msgspec.json.encode(agent)

    async def _put_agent(self, request: Request) -> Answer:
        identity = self._auth.identity(request)
        name = _name_of(request)
        if identity.agent not in (None, name):
            raise Problem("forbidden", "an agent writes its own entry only")
        body = decode(_decode_agent, request.body)
        text = checked_text(body.description, "description", views.DESCRIPTION_BYTES_MAX)
        return msgspec.json.encode(await self._store.put_agent(name, text))

    async def _groups(self, request: Request) -> Answer:
        self._auth.identity(request)
        return msgspec.json.encode(views.GroupsView(await self._store.groups()))

    async def _group(self, request: Request) -> Answer:
        self._auth.identity(request)
        group = await self._store.group(_name_of(request))
        if group is None:
            raise not_found("group")
        return msgspec.json.encode(group)

    async def _put_group(self, request: Request) -> Answer:
        identity = self._auth.identity(request)
        name = _name_of(request)
        if identity.agent is not None:
            raise Problem("forbidden", "groups are written with the operator's token")
        members = list(dict.fromkeys(decode(_decode_group, request.body).members))
        faults = [Fault(f"members[{i}]", name_problem(member))
                  for i, member in enumerate(members) if not is_name(member)]
        if faults:
            raise invalid(faults)
        return msgspec.json.encode(await self._store.put_group(name, members))

    def routes(self) -> Sequence[Route]:
        """The calls of this module."""
        one = (params.NAME_PATH,)
        return (
            Route("GET", "/api/v1/agents", self._agents, "List the agents", "By name.", "Registry",
                  answer=views.AgentsView),
            Route("GET", "/api/v1/agents/{name}", self._agent, "Look at an agent", "", "Registry",
                  path_params=one, answer=Agent, problems=("not-found",)),
            Route("PUT", "/api/v1/agents/{name}", self._put_agent, "Describe an agent",
                  "An inbox needs no entry, and an entry shows no inbox.", "Registry",
                  path_params=one, body=views.AgentBody,
                  body_example={"description": "writes code"}, answer=Agent, writes=True,
                  problems=("forbidden",)),
            Route("GET", "/api/v1/groups", self._groups, "List the groups", "By name.", "Registry",
                  answer=views.GroupsView),
            Route("GET", "/api/v1/groups/{name}", self._group, "Look at a group", "", "Registry",
                  path_params=one, answer=Group, problems=("not-found",)),
            Route("PUT", "/api/v1/groups/{name}", self._put_group, "Set a group's members",
                  "Those before are replaced. With tokens on, the operator's call.", "Registry",
                  path_params=one, body=views.GroupBody, body_example={"members": ["code", "chat"]},
                  answer=Group, writes=True, problems=("forbidden",)),
        )


def _name_of(request: Request) -> str:
    return checked_name(request.args[0], "name")

