# SPDX-License-Identifier: MIT
"""An HTTP/1.1 origin that misbehaves on command, for what nginx is too polite to do.

The path says what happens; every request is kept in `requests`.

    /echo                 200, JSON of method, target, fields, body
    /body/N               200 with N bytes;  /chunked/N  the same in chunks
    /status/N             an empty answer
    /delay/MS             200 after a while;  /silent  never
    /close                end of file instead of an answer;  /reset  RST instead
    /half                 a head that promises 100 bytes, 10 of them, end of file
    /half-chunked         the same inside a chunk
    /early                answers 200 before it reads the body, then closes
    /last                 200 with Connection: close
    /garbage              bytes that are not HTTP
    /continue             100 Continue, 103 Early Hints, then 200
    /raw                  sends `script` as it is (bytes set by the test)
    /once/NAME            closes without an answer the first time, answers 200 after that
"""

import asyncio
import contextlib
import json

from .base import LOOPBACK, Loop, free_port
from .nginx import pattern
from .relays import _reset


class Origin:
    def __init__(self):
        self.host, self.port = LOOPBACK, free_port()
        self.requests, self.accepted, self.open, self.peak = [], 0, 0, 0
        self.script = b""
        self._seen = set()
        self._loop = Loop()
        self._server = self._loop.call(self._listen())

    async def _listen(self):
        return await asyncio.start_server(self._serve, self.host, self.port, backlog=1024)

    def url(self):
        return f"http://{self.host}:{self.port}"

    async def _serve(self, reader, writer):
        self.accepted += 1
        self.open += 1
        self.peak = max(self.peak, self.open)
        number = self.accepted
        try:
            while request := await self._read_head(reader):
                request["connection"] = number
                self.requests.append(request)
                if not await self._answer(request, reader, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            writer.close()

    @staticmethod
    async def _read_head(reader):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, target, version = first.split(" ")
        fields = [tuple(part.strip() for part in line.split(":", 1)) for line in lines]
        return {"method": method, "target": target, "version": version, "fields": fields,
                "body": b"", "trailers": []}

    @staticmethod
    def field(request, name):
        return next((v for k, v in request["fields"] if k.lower() == name.lower()), None)

    async def _read_body(self, request, reader):
        if (self.field(request, "transfer-encoding") or "").lower() == "chunked":
            while size := int((await reader.readline()).split(b";")[0], 16):
                request["body"] += await reader.readexactly(size)
                await reader.readexactly(2)
            while (line := await reader.readline()) != b"\r\n":
                request["trailers"].append(line.decode("latin-1").strip())
        elif length := int(self.field(request, "content-length") or 0):
            request["body"] = await reader.readexactly(length)

    async def _answer(self, request, reader, writer):
        """True: the connection goes on."""
        name, _, arg = request["target"].split("?")[0].lstrip("/").partition("/")
        act = getattr(self, "_on_" + name.replace("-", "_"), None)
        if act is None:
            act, arg = self._on_status, "404"
        if name not in ("early", "close", "reset", "silent"):
            await self._read_body(request, reader)
        go_on = await act(request, writer, arg)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        return go_on

    @staticmethod
    def _send(writer, body=b"", status="200 OK", fields=()):
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return True

    async def _on_echo(self, request, writer, _arg):
        body = json.dumps({**request, "body": request["body"].decode("latin-1")}).encode()
        return self._send(writer, body, fields=["Content-Type: application/json"])

    async def _on_body(self, _request, writer, arg):
        return self._send(writer, pattern(int(arg)))

    async def _on_chunked(self, _request, writer, arg):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
        data, step = pattern(int(arg)), 1000
        for i in range(0, len(data), step):
            part = data[i:i + step]
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            await writer.drain()
        writer.write(b"0\r\nX-Sum: %d\r\n\r\n" % len(data))
        return True

    async def _on_status(self, _request, writer, arg):
        if arg in ("204", "304"):
            writer.write(f"HTTP/1.1 {arg} Empty\r\n\r\n".encode())
            return True
        return self._send(writer, status=f"{arg} Status")

    async def _on_delay(self, _request, writer, arg):
        await asyncio.sleep(int(arg) / 1000)
        return self._send(writer, b"late\n")

    async def _on_silent(self, _request, _writer, _arg):
        await asyncio.sleep(3600)

    async def _on_close(self, _request, _writer, _arg):
        return False

    async def _on_reset(self, _request, writer, _arg):
        _reset(writer)
        return False

    async def _on_half(self, _request, writer, _arg):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789")
        return False

    async def _on_half_chunked(self, _request, writer, _arg):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n0123456789")
        return False

    async def _on_early(self, _request, writer, _arg):
        self._send(writer, b"enough\n", fields=["Connection: close"])
        return False

    async def _on_last(self, _request, writer, _arg):
        self._send(writer, b"bye\n", fields=["Connection: close"])
        return False

    async def _on_garbage(self, _request, writer, _arg):
        writer.write(b"\x00\x01 this is not HTTP\r\n\r\n")
        return False

    async def _on_continue(self, _request, writer, _arg):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        return self._send(writer, b"done\n")

    async def _on_raw(self, _request, writer, _arg):
        writer.write(self.script)
        return False

    async def _on_once(self, _request, writer, arg):
        if arg not in self._seen:
            self._seen.add(arg)
            return False
        return self._send(writer, b"again\n")

    def close(self):
        self._loop.loop.call_soon_threadsafe(self._server.close)
        self._loop.close()
