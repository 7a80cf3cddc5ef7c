#!/usr/bin/python3
"""talk.py PART NODE=ADDRESS …: what message servers and workers do with the queue, and none may.

Ends with 1 and a line at the first answer that is not as promised. `work` goes on until /root/stop
is there.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pika
from pika.exceptions import AMQPError, ChannelClosedByBroker

NODES = dict(word.split("=") for word in sys.argv[2:])
PASSWORD = Path("/root/password").read_text(encoding="utf-8")
STOP = Path("/root/stop")
TRUSTED = ssl.create_default_context(cafile="/root/ca.pem")
QUEUE = "coordd.work"
Channel = pika.adapters.blocking_connection.BlockingChannel


def expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        sys.exit(f"{what}: {found!r}, wanted {wanted!r}")


def connect(node: str, user: str = "coordd", password: str = PASSWORD) -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.ConnectionParameters(
        NODES[node], 5671, credentials=pika.PlainCredentials(user, password), heartbeat=10,
        blocked_connection_timeout=10, socket_timeout=4, stack_timeout=8, retry_delay=0,
        ssl_options=pika.SSLOptions(TRUSTED, node)))


def declared(channel: Channel) -> None:
    channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})


def refused(what: str, said: str, call: Callable[[], object]) -> None:
    try:
        call()
    except (AMQPError, OSError, http.client.HTTPException) as error:
        expect(said in f"{type(error).__name__} {error}", True,
               f"{what}: {type(error).__name__} {error}")
    else:
        sys.exit(f"{what} is taken")


def closed(node: str) -> None:
    """Who may not come in."""
    address = NODES[node]
    refused("a wrong password", "ACCESS_REFUSED", lambda: connect(node, password="wrong"))
    refused("guest", "ACCESS_REFUSED", lambda: connect(node, "guest", "guest"))
    refused("AMQP's port without TLS", "ConnectionRefusedError",
            lambda: socket.create_connection((address, 5672), timeout=2))
    with (socket.create_connection((address, 5671), timeout=5) as plain,
          contextlib.suppress(ConnectionResetError)):
        plain.sendall(b"AMQP\x00\x00\x09\x01")
        plain.settimeout(10)
        expect(plain.recv(64)[:1] in {b"", b"\x15"}, True, "AMQP without TLS is answered")
    strange = ssl.create_default_context()
    refused("an authority that is not known", "CERTIFICATE_VERIFY_FAILED",
            lambda: strange.wrap_socket(socket.create_connection((address, 5671), timeout=5),
                                        server_hostname=node))
    refused("metrics without TLS", "", lambda: urllib.request.urlopen(
        f"http://{address}:15692/metrics", timeout=5))


def rights() -> None:
    """Every node: who may come in, and what the user may touch."""
    for node in NODES:
        closed(node)
        with connect(node) as connection:
            declared(connection.channel())
            channel = connection.channel()
            channel.confirm_delivery()
            channel.queue_declare("coordd.trial", durable=True)
            channel.exchange_declare("coordd.exchange", durable=True)
            channel.queue_bind("coordd.trial", "coordd.exchange", "x")
            channel.basic_publish("", "coordd.trial", b"hello", mandatory=True)
            channel.basic_publish("coordd.exchange", "x", b"hello", mandatory=True)
            for _ in range(2):
                expect(channel.basic_get("coordd.trial", auto_ack=True)[2], b"hello", "a message")
            channel.queue_delete("coordd.trial")
            channel.exchange_delete("coordd.exchange")
            for what, call in (
                ("another queue", lambda it: it.queue_declare("other")),
                ("a queue with a name of the server's", lambda it: it.queue_declare("")),
                ("another exchange", lambda it: it.exchange_declare("other")),
                ("publishing to another exchange",
                 lambda it: it.basic_publish("amq.topic", "x", b"")),
                ("binding to another exchange",
                 lambda it: it.queue_bind(QUEUE, "amq.topic", "x")),
            ):
                channel = connection.channel()
                channel.confirm_delivery()
                try:
                    call(channel)
                except ChannelClosedByBroker as error:
                    expect(error.reply_code, 403, what)
                else:
                    sys.exit(f"{what} is taken")


def metrics() -> None:
    """Prometheus gets its figures, by TLS alone."""
    for node, address in NODES.items():
        context = ssl.create_default_context(cafile="/root/ca.pem")
        url = f"https://{address}:15692/metrics"
        with urllib.request.urlopen(url, timeout=10, context=context) as answer:
            expect(b"rabbitmq_queue_messages_ready" in answer.read(), True, f"metrics of {node}")


def work() -> None:
    """Publish with confirms, and go to another node when one is gone; then read all of it."""
    confirmed, number, again, longest = set(), 0, 0, 0.0
    order = list(NODES)
    channel: Channel | None = None
    while not STOP.exists():
        began = time.monotonic()
        while True:
            try:
                if channel is None:
                    channel = connect(order[0]).channel()
                    channel.confirm_delivery()
                    declared(channel)
                channel.basic_publish("", QUEUE, str(number).encode(),
                                      pika.BasicProperties(delivery_mode=2), mandatory=True)
            except (AMQPError, OSError):
                expect(time.monotonic() - began < 60, True, "no node takes a message")
                channel, again = None, again + 1
                order.append(order.pop(0))
                time.sleep(0.1)
            else:
                break
        confirmed.add(number)
        number += 1
        longest = max(longest, time.monotonic() - began)
        time.sleep(0.01)
    with connect(order[0]) as connection:
        channel = connection.channel()
        found = set()
        for method, _, body in channel.consume(QUEUE, inactivity_timeout=3):
            if method is None:
                break
            found.add(int(body))
            channel.basic_ack(method.delivery_tag)
    expect(confirmed - found, set(), "messages that were confirmed and are gone")
    expect(len(confirmed) > 100, True, f"{len(confirmed)} messages")
    print(json.dumps({"confirmed": len(confirmed), "lost": 0, "again": again,
                      "longest_s": round(longest, 2)}))


def shown() -> None:
    """Print the serial number of this node's certificate, and which process shows it."""
    (node, address), = NODES.items()
    with (socket.create_connection((address, 5671), timeout=5) as plain,
          TRUSTED.wrap_socket(plain, server_hostname=node) as link):
        certificate = link.getpeercert()
        assert certificate is not None
        print(certificate["serialNumber"], flush=True)
    subprocess.run(["systemctl", "show", "-P", "MainPID", "rabbitmq-server"], check=True)


if __name__ == "__main__":
    {"rights": rights, "metrics": metrics, "work": work, "shown": shown}[sys.argv[1]]()
