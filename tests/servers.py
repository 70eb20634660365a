"""An S3 server to test against, and a relay that puts faults between it and its client."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import boto3

BUCKET = "runs"


class S3Server:
    """moto's S3 in a process of its own, over HTTP on loopback: it checks signatures and IAM policies.

    admin: the environment of one who may do everything.
    """

    def __init__(self, log: Path):
        self._log = log
        # The three requests that make the admin are the only ones that nobody has to sign.
        environment = os.environ | {"INITIAL_NO_AUTH_ACTION_COUNT": "3", "PYTHONUNBUFFERED": "1"}
        with log.open("w") as output:
            self.process = subprocess.Popen([sys.executable, Path(__file__).with_name("s3_app.py")],
                                            env=environment, stdout=output, stderr=output)
        try:
            self.url = self._await_url()
            self.port = int(self.url.rpartition(":")[2])
            self.admin = self._environment("unsigned", "unsigned")
            self.admin = self.user("admin", {"Action": "*", "Resource": "*"})
            self.client("s3").create_bucket(Bucket=BUCKET)
        except BaseException:
            self.stop()
            raise

    def user(self, name: str, *allowed: dict) -> dict[str, str]:
        """The environment of a new user; allowed: statements of an IAM policy."""
        iam = self.client("iam")
        iam.create_user(UserName=name)
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow"} | statement for statement in allowed]}
        iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return self._environment(key["AccessKeyId"], key["SecretAccessKey"])

    def client(self, service: str):
        """boto3's client of the admin."""
        return boto3.client(service, endpoint_url=self.url, region_name="us-east-1",
                            aws_access_key_id=self.admin["AWS_ACCESS_KEY_ID"],
                            aws_secret_access_key=self.admin["AWS_SECRET_ACCESS_KEY"])

    def requests(self) -> int:
        """How many requests the server has answered."""
        return len(re.findall(r" HTTP/1\.1", self._log.read_text()))

    def stop(self) -> None:
        """End the server; what it holds is gone."""
        self.process.terminate()
        self.process.wait()

    def _environment(self, key, secret):
        return {"AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret,
                "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1",
                "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}

    def _await_url(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := re.search(r"http://127\.0\.0\.1:\d+", self._log.read_text()):
                return found[0]
            time.sleep(0.02)
        raise RuntimeError(f"the S3 server did not start: {self._log.read_text()[-2000:]}")


class Relay:
    """TCP on loopback to a server's port, with faults on demand.

    instead: replies that the next requests get in the server's stead, each on a connection that is then closed.
    cut: how many bytes of the next replies still pass before their connection is closed; None: all.
    requests: how often the client has sent something.
    """

    def __init__(self, port: int):
        self._server, self.port, self.requests = port, 0, 0
        self.instead: list[bytes] = []
        self.cut: int | None = None
        self._listener = None
        self.open()

    @property
    def url(self) -> str:
        """Where clients find the server through this relay."""
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Take connections, at the same port as before."""
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        """Break every connection and refuse new ones."""
        for end in (self._listener, *self._ends):
            _close(end)

    def _accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server))
                self._ends += [client, server]
                threading.Thread(target=self._ask, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _ask(self, client, server):
        with contextlib.suppress(OSError):
            while data := client.recv(2**16):
                self.requests += 1
                if self.instead:
                    client.sendall(self.instead.pop(0))
                    break
                server.sendall(data)
        _close(server)
        _close(client)

    def _answer(self, server, client):
        with contextlib.suppress(OSError):
            while data := server.recv(2**16):
                if self.cut is not None:
                    data, self.cut = data[:self.cut], self.cut - len(data)
                    client.sendall(data)
                    if self.cut <= 0:
                        self.cut = None
                        break
                else:
                    client.sendall(data)
        _close(client)
        _close(server)


def _close(end):
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
