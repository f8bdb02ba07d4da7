"""Pulumi's provider process as the engine runs it, and the engine's side of the conversation."""

import os
import subprocess
import sys
from typing import Any, Self

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from pulumi.dynamic.dynamic import PROVIDER_KEY, ResourceProvider, serialize_provider
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc

from tests.infra.engine import ROOT

CALL_SECONDS = 60
URN = "urn:pulumi:dev::aviary::pulumi-python:dynamic/pinecone:VectorIndex::aviary-dev"

Properties = dict[str, Any]


class ProviderProcess:
    """`python -m pulumi.dynamic`, started in the program's folder; a context manager. Errors are `grpc.RpcError` whose
    details are what a user sees."""

    def __init__(self, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pulumi.dynamic"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
            text=True,
        )
        assert self._process.stdout is not None
        port = int(self._process.stdout.readline())
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._stub = provider_pb2_grpc.ResourceProviderStub(self._channel)
        self.provider = ""

    def use(self, provider: ResourceProvider) -> None:
        """Every call from now on is for this provider, pickled as Pulumi keeps it in the state."""
        self.provider = serialize_provider(provider)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._process.terminate()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def check(self, news: Properties) -> list[tuple[str, str]]:
        request = provider_pb2.CheckRequest(urn=URN, olds=Struct(), news=self._struct(news))
        answer = self._stub.Check(request, timeout=CALL_SECONDS)
        return [(failure.property, failure.reason) for failure in answer.failures]

    def diff(self, id: str, olds: Properties, news: Properties) -> Any:
        request = provider_pb2.DiffRequest(id=id, urn=URN, olds=self._struct(olds), news=self._struct(news))
        return self._stub.Diff(request, timeout=CALL_SECONDS)

    def create(self, properties: Properties) -> tuple[str, Properties]:
        request = provider_pb2.CreateRequest(urn=URN, properties=self._struct(properties))
        answer = self._stub.Create(request, timeout=CALL_SECONDS)
        return answer.id, self._plain(answer.properties)

    def read(self, id: str, properties: Properties) -> tuple[str, Properties]:
        request = provider_pb2.ReadRequest(id=id, urn=URN, properties=self._struct(properties))
        answer = self._stub.Read(request, timeout=CALL_SECONDS)
        return answer.id, self._plain(answer.properties)

    def update(self, id: str, olds: Properties, news: Properties) -> Properties:
        request = provider_pb2.UpdateRequest(id=id, urn=URN, olds=self._struct(olds), news=self._struct(news))
        return self._plain(self._stub.Update(request, timeout=CALL_SECONDS).properties)

    def delete(self, id: str, properties: Properties) -> None:
        request = provider_pb2.DeleteRequest(id=id, urn=URN, properties=self._struct(properties))
        self._stub.Delete(request, timeout=CALL_SECONDS)

    def _struct(self, properties: Properties) -> Struct:
        message = Struct()
        message.update({**properties, PROVIDER_KEY: self.provider})
        return message

    def _plain(self, message: Struct) -> Properties:
        found = MessageToDict(message)
        assert found.pop(PROVIDER_KEY) == self.provider, "the engine needs it for the next call"
        return dict(found)
