"""What the kernel does with connections under a file of rules, the argument. In a network of its own: `unshare -n`.

Prints JSON: {client: ports that answer}, and whether a connection that was open outlived other rules.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys

PORTS = (22, 4711, 5432, 6379)
# A member and somebody else, by IPv4 and IPv6: what the far end of the wire calls itself.
CLIENTS = ("10.0.0.22", "10.0.0.99", "fd00::22", "fd00::99")
CONNECT = """
import json, socket, sys
found = []
for port in json.loads(sys.argv[3]):
    try:
        socket.create_connection((sys.argv[2], port), 0.5, (sys.argv[1], 0)).close()
        found.append(port)
    except OSError:
        pass
print(json.dumps(found))
"""


def run(*argv: str) -> str:
    """Output of a command."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def main(rules: str) -> None:
    """Build a wire with two ends, listen at this one, and connect from the other."""
    with subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE) as far:
        assert far.stdout
        far.stdout.readline()
        inside = ["nsenter", "--target", str(far.pid), "--net"]
        try:
            run("ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(far.pid))
            for address in ("10.0.0.1/24", "fd00::1/64"):
                run("ip", "address", "add", address, "dev", "near", *(["nodad"] if ":" in address else []))
            for address in CLIENTS:
                length, more = ("64", ["nodad"]) if ":" in address else ("24", [])
                run(*inside, "ip", "address", "add", f"{address}/{length}", "dev", "far", *more)
            for link in (["lo"], ["near"]):
                run("ip", "link", "set", *link, "up")
            run(*inside, "ip", "link", "set", "far", "up")
            servers = [
                socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) for port in PORTS
            ]
            # Somebody who is connected before there are any rules.
            argv = [
                *inside,
                sys.executable,
                "-c",
                "import socket, sys; s = socket.create_connection(('10.0.0.1', 5432)); "
                "sys.stdin.readline(); s.sendall(b'still here')",
            ]
            with subprocess.Popen(argv, stdin=subprocess.PIPE, text=True) as connected:
                server, _ = servers[PORTS.index(5432)].accept()
                run("nft", "-f", rules)
                server.settimeout(5)
                assert connected.stdin
                connected.stdin.write("\n")
                connected.stdin.flush()
                found: dict[str, object] = {"open": server.recv(99).decode()}
            for client in CLIENTS:
                near = "fd00::1" if ":" in client else "10.0.0.1"
                argv = [*inside, sys.executable, "-c", CONNECT, client, near, json.dumps(PORTS)]
                found[client] = json.loads(run(*argv))
            found["itself"] = json.loads(run(sys.executable, "-c", CONNECT, "10.0.0.1", "10.0.0.1", json.dumps(PORTS)))
            print(json.dumps(found))
        finally:
            far.kill()


if __name__ == "__main__":
    main(sys.argv[1])
