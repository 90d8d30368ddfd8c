"""Two ICE agents that may use relayed candidates alone. What the one says the other repeats, in both directions.

The one argument is JSON: {"server": [host, port], "transport": "udp" or "tcp", "tls": bool, "credentials": [two of
[username, password]]}. Prints "all came back" in the end. TLS trusts SSL_CERT_FILE.
"""

import asyncio
import json
import sys

from aioice import Connection, TransportPolicy

LENGTHS = [1, 4, 100, 171, 1200] * 20


def make(wanted, credentials, controlling):
    username, password = credentials
    return Connection(
        ice_controlling=controlling,
        turn_server=tuple(wanted["server"]),
        turn_username=username,
        turn_password=password,
        turn_ssl=wanted["tls"],
        turn_transport=wanted["transport"],
        transport_policy=TransportPolicy.RELAY,
    )


async def introduce(to, agent):
    await agent.gather_candidates()
    assert agent.local_candidates, "no candidate"
    for candidate in agent.local_candidates:
        assert candidate.type == "relay", candidate
        await to.add_remote_candidate(candidate)
    await to.add_remote_candidate(None)
    to.remote_username = agent.local_username
    to.remote_password = agent.local_password


async def repeat(agent, count):
    for _ in range(count):
        await agent.send(await agent.recv())


async def talk(speaker, listener):
    repeating = asyncio.create_task(repeat(listener, len(LENGTHS)))
    for number, length in enumerate(LENGTHS):
        said = bytes((number + place) % 256 for place in range(length))
        await speaker.send(said)
        heard = await speaker.recv()
        assert heard == said, f"message {number} of {length} bytes came back as {heard!r}"
    await repeating


async def main():
    wanted = json.loads(sys.argv[1])
    alice, bob = (
        make(wanted, credentials, controlling)
        for credentials, controlling in zip(wanted["credentials"], (True, False))
    )
    await introduce(bob, alice)
    await introduce(alice, bob)
    await asyncio.gather(alice.connect(), bob.connect())
    await talk(alice, bob)
    await talk(bob, alice)
    await asyncio.gather(alice.close(), bob.close())
    print("all came back")


asyncio.run(main())
