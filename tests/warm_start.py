"""Commands that start with the libraries loaded: `python warm_start.py SOCKET PROGRAM`, on Linux.

Loading torch and transformers is most of what a short command takes. One process loads them, and
each command is a fork of it. The program's own modules are loaded anew by each.

Run by the interpreter of a bare installation, so it imports nothing of the tests.
"""

import gc
import importlib
import os
import socket
import sys
from pathlib import Path

_LIBRARIES = (
    "torch._dynamo",
    "transformers.modeling_utils",
    "transformers.models.moonshine.modeling_moonshine",
    "transformers.models.moonshine_streaming.modeling_moonshine_streaming",
    "accelerate",
    "peft",
)
# In place of the program: sends its folder, words, variables and streams, and gets the exit code.
CLIENT = """#!{python} -IS
import os, socket, sys
parts = [os.getcwd(), *(f"{{name}}={{value}}" for name, value in os.environ.items())]
request = "\\0\\0".join(["\\0".join(parts), "\\0".join(sys.argv[1:])]).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(request)
    sys.exit(server.recv(1)[0])
"""


def _serve(address: str, program: str) -> None:
    """Run one command after the other, until this process is ended."""
    importlib.import_module("moonshine_tune")  # sets the variables that libraries read once
    for name in _LIBRARIES:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "moonshine_tune"]:
        del sys.modules[name]
    # What is loaded lives as long as the process. A command that looked through it for garbage
    # would copy every page of it, which takes a second and more.
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{address}.new")
        server.listen()
        Path(f"{address}.new").rename(address)
        while True:
            client, _ = server.accept()
            with client:
                request, streams = _receive(client)
                process = os.fork()
                if process == 0:
                    _become_command(program, request, streams)
                for stream in streams:
                    os.close(stream)
                _, status = os.waitpid(process, 0)
                client.sendall(bytes([os.waitstatus_to_exitcode(status) % 256]))


def _receive(client: socket.socket) -> tuple[str, list[int]]:
    head, streams, _, _ = socket.recv_fds(client, 8, 3)
    count, request = int.from_bytes(head, "big"), b""
    while len(request) < count:
        request += client.recv(count - len(request))
    return request.decode(), streams


def _become_command(program: str, request: str, streams: list[int]) -> None:
    """Be what a new process would be, and exit with its code."""
    surroundings, words = request.split("\0\0", 1)
    folder, *variables = surroundings.split("\0")
    os.chdir(folder)
    os.environ.update(variable.split("=", 1) for variable in variables)
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    sys.argv[:] = [program, *words.split("\0")]
    importlib.import_module("moonshine_tune.__main__").main()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
