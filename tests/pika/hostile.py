"""Sends what no client would: properties written by hand.   hostile.py QUEUE EXCHANGE"""

import struct
import sys

import pika
from common import connect


def short(text):
    return bytes([len(text)]) + text


def sized(data):
    return struct.pack(">I", len(data)) + data


def table(*entries):
    return sized(b"".join(short(name) + value for name, value in entries))


def text(value):
    return b"S" + sized(value)


def nested(levels):
    value = b"V"
    for _ in range(levels):
        value = b"A" + sized(value)
    return value


def task(name):
    return (b"task", text(b"hostile.take")), (b"id", text(name))


class Raw(pika.BasicProperties):
    """Properties that are bytes already: the content type and the headers."""

    def __init__(self, headers, kind=b"application/json"):
        super().__init__()
        self.raw = struct.pack(">H", 0xA000) + short(kind) + headers

    def encode(self):
        return [self.raw]


queue, exchange = sys.argv[1:]
body = b"[[1],{},{}]"
channel = connect().channel()
channel.confirm_delivery()
for properties in [
    Raw(table(*task(b"deep"), (b"x", nested(1000)))),
    Raw(table(*task(b"deeper"), (b"x", nested(20000)))),
    Raw(table(*task(b"name"), (b"\xff\xfe", b"V"))),
    Raw(table(*task(b"inner"), (b"x", b"F" + table((b"\xc3", b"V"))))),
    Raw(table(*task(b"kind")), b"application/json\xff"),
    Raw(table(*task(b"value"), (b"x", text(b"\xff\x00")))),
    Raw(table(*task(b"many"), *((b"h%d" % n, b"V") for n in range(12000)))),
    Raw(table((b"task", text(b"nobody")), (b"id", text(b"fat")), (b"x", text(b"y" * 130000)))),
]:
    channel.basic_publish("", queue, body, properties)
channel.basic_publish(exchange, b"key.\xff", body, Raw(table(*task(b"key"))))
channel.connection.close()
