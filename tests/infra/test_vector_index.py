"""The Pinecone index as a Pulumi resource, in Pulumi's own provider process, against the stand-in."""

import base64
import pickletools
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from pinecone import Pinecone
from pulumi.dynamic.dynamic import serialize_provider

from components.pinecone_provider import VectorIndexProvider
from tests.infra.dynamic import ProviderProcess
from tests.services.pinecone.process import PineconeProcess

OWNER = {"managed-by": "pulumi organization aviary dev"}


@pytest.fixture(scope="module")
def pinecone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PineconeProcess]:
    server = PineconeProcess(tmp_path_factory.mktemp("pinecone"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def process(pinecone: PineconeProcess) -> Iterator[ProviderProcess]:
    with ProviderProcess(PINECONE_CONTROLLER_HOST=pinecone.control_host) as running:
        yield running


@pytest.fixture
def provider(process: ProviderProcess, pinecone: PineconeProcess) -> Iterator[ProviderProcess]:
    """It gives up waiting soon, and finds no faults that another test left."""
    process.use(VectorIndexProvider(ready_seconds=0.5, poll_seconds=0.02))
    yield process
    pinecone.clear_faults()


@pytest.fixture
def client(pinecone: PineconeProcess) -> Iterator[Pinecone]:
    with Pinecone(api_key=pinecone.api_key, host=pinecone.control_host) as found:
        yield found


@pytest.fixture
def wanted(pinecone: PineconeProcess) -> dict[str, Any]:
    """Properties of an index that does not exist yet."""
    return {
        "name": f"aviary-{uuid.uuid4().hex[:12]}",
        "dimension": 384,
        "metric": "cosine",
        "cloud": "aws",
        "region": "us-east-1",
        "tags": OWNER,
        "deletion_protection": False,
        "adopt": False,
        "api_key": pinecone.api_key,
    }


def foreign(client: Pinecone, wanted: dict[str, Any], **different: Any) -> None:
    """Somebody else made an index of that name."""
    made = wanted | different
    client.indexes.create(
        name=made["name"],
        dimension=made["dimension"],
        metric=made["metric"],
        deployment={"deployment_type": "managed", "cloud": made["cloud"], "region": made["region"]},
    )


def sentence(error: pytest.ExceptionInfo[grpc.RpcError]) -> str:
    """The last line of what the user sees."""
    details = error.value.details()
    return str(details).strip().splitlines()[-1]


def test_a_new_index_is_as_asked_and_ready(
    provider: ProviderProcess, client: Pinecone, pinecone: PineconeProcess, wanted: dict[str, Any]
) -> None:
    made, outputs = provider.create(wanted | {"deletion_protection": True})
    live = client.indexes.describe(wanted["name"])
    assert made == wanted["name"]
    assert (live.dimension, live.metric, live.deletion_protection) == (384, "cosine", "enabled")
    assert dict(live.tags or {}) == OWNER
    assert outputs == wanted | {"deletion_protection": True, "host": pinecone.index_host(wanted["name"])}


def test_creation_waits_until_the_index_is_ready(
    provider: ProviderProcess, pinecone: PineconeProcess, wanted: dict[str, Any]
) -> None:
    pinecone.faults(operation="describe_index", index=wanted["name"], outcome="not_ready", count=3)
    _, outputs = provider.create(wanted)
    assert outputs["host"] == pinecone.index_host(wanted["name"])


def test_an_index_that_does_not_get_ready_is_taken_up_by_the_next_up(
    provider: ProviderProcess, client: Pinecone, pinecone: PineconeProcess, wanted: dict[str, Any]
) -> None:
    pinecone.faults(operation="describe_index", index=wanted["name"], outcome="not_ready")
    with pytest.raises(grpc.RpcError) as error:
        provider.create(wanted | {"deletion_protection": True})
    assert f"the index {wanted['name']} is not ready after 0.5 s (Initializing)" in sentence(error)
    assert "run `pulumi up` again" in sentence(error)
    pinecone.clear_faults()
    assert client.indexes.describe(wanted["name"]).deletion_protection == "disabled", "it can still be thrown away"
    made, _ = provider.create(wanted | {"deletion_protection": True})
    assert made == wanted["name"]
    assert client.indexes.describe(wanted["name"]).deletion_protection == "enabled"


def test_an_index_that_failed_to_initialise_says_so(
    provider: ProviderProcess, pinecone: PineconeProcess, wanted: dict[str, Any]
) -> None:
    pinecone.faults(operation="describe_index", index=wanted["name"], outcome="not_ready", state="InitializationFailed")
    with pytest.raises(grpc.RpcError) as error:
        provider.create(wanted)
    assert "could not initialise" in sentence(error)


def test_an_answer_lost_after_the_index_was_made_does_no_harm(
    provider: ProviderProcess, pinecone: PineconeProcess, wanted: dict[str, Any]
) -> None:
    pinecone.faults(operation="create_index", outcome="reset", applied=True, count=1)
    made, outputs = provider.create(wanted)
    assert made == wanted["name"]
    assert outputs["host"]


def test_somebody_elses_index_is_left_alone(
    provider: ProviderProcess, client: Pinecone, wanted: dict[str, Any]
) -> None:
    foreign(client, wanted)
    with pytest.raises(grpc.RpcError) as error:
        provider.create(wanted)
    assert f"an index named {wanted['name']} exists already and is not this stack's" in sentence(error)
    assert "pulumi config set indexAdopt true" in sentence(error)
    assert not client.indexes.describe(wanted["name"]).tags


def test_an_index_is_adopted_when_the_configuration_says_so(
    provider: ProviderProcess, client: Pinecone, wanted: dict[str, Any]
) -> None:
    foreign(client, wanted)
    made, outputs = provider.create(wanted | {"adopt": True})
    assert made == wanted["name"]
    assert dict(client.indexes.describe(wanted["name"]).tags or {}) == OWNER
    assert outputs["tags"] == OWNER


@pytest.mark.parametrize(
    ("key", "value"), [("dimension", 8), ("metric", "euclidean"), ("cloud", "gcp"), ("region", "eu-west-1")]
)
def test_an_index_that_does_not_fit_is_never_adopted(
    provider: ProviderProcess, client: Pinecone, wanted: dict[str, Any], key: str, value: object
) -> None:
    foreign(client, wanted, **{key: value})
    with pytest.raises(grpc.RpcError) as error:
        provider.create(wanted | {"adopt": True})
    assert f"with {key} {value} instead of {wanted[key]}" in sentence(error)


def test_a_wrong_key_is_told_without_the_key(provider: ProviderProcess, wanted: dict[str, Any]) -> None:
    with pytest.raises(grpc.RpcError) as error:
        provider.create(wanted | {"api_key": "a-wrong-key"})
    assert "Pinecone refused the API key (401)" in sentence(error)
    assert "pulumi config set --secret pineconeApiKey" in sentence(error)
    assert "a-wrong-key" not in error.value.details()


def test_trouble_at_pinecone_names_the_index(
    provider: ProviderProcess, pinecone: PineconeProcess, wanted: dict[str, Any]
) -> None:
    pinecone.faults(operation="create_index", outcome="status", status=400, message="no such region")
    with pytest.raises(grpc.RpcError) as error:
        provider.create(wanted)
    assert f"Pinecone did not do it for the index {wanted['name']}" in sentence(error)
    assert "no such region" in sentence(error)


def test_a_refresh_sees_what_was_changed_by_hand(
    provider: ProviderProcess, client: Pinecone, wanted: dict[str, Any]
) -> None:
    made, outputs = provider.create(wanted)
    client.indexes.configure(wanted["name"], deletion_protection="enabled", tags={"by": "hand"})
    found, refreshed = provider.read(made, outputs)
    assert found == made
    assert refreshed == outputs | {"deletion_protection": True, "tags": OWNER | {"by": "hand"}}
    assert provider.diff(made, refreshed, wanted).changes == provider.diff(made, refreshed, wanted).DIFF_SOME


def test_a_refresh_sees_that_the_index_is_gone(
    provider: ProviderProcess, client: Pinecone, wanted: dict[str, Any]
) -> None:
    made, outputs = provider.create(wanted)
    client.indexes.delete(wanted["name"])
    assert provider.read(made, outputs)[0] == ""


def test_nothing_to_do_is_no_change(provider: ProviderProcess, wanted: dict[str, Any]) -> None:
    made, outputs = provider.create(wanted)
    answer = provider.diff(made, outputs, wanted)
    assert answer.changes == answer.DIFF_NONE
    assert not answer.replaces


@pytest.mark.parametrize(
    ("key", "value"),
    [("name", "other"), ("dimension", 768), ("metric", "dotproduct"), ("cloud", "gcp"), ("region", "eu-west-1")],
)
def test_another_kind_of_index_replaces_this_one(
    provider: ProviderProcess, wanted: dict[str, Any], key: str, value: object
) -> None:
    answer = provider.diff("id", wanted, wanted | {key: value})
    assert answer.changes == answer.DIFF_SOME
    assert list(answer.replaces) == [key]
    assert answer.deleteBeforeReplace is (key != "name"), "two indexes cannot share a name"


@pytest.mark.parametrize(
    ("key", "value"), [("tags", {"a": "b"}), ("deletion_protection", True), ("api_key", "another-key")]
)
def test_tags_protection_and_key_change_in_place(
    provider: ProviderProcess, wanted: dict[str, Any], key: str, value: object
) -> None:
    answer = provider.diff("id", wanted, wanted | {key: value})
    assert answer.changes == answer.DIFF_SOME
    assert not answer.replaces


def test_an_update_sets_and_removes_tags_and_protects(
    provider: ProviderProcess, client: Pinecone, wanted: dict[str, Any]
) -> None:
    made, outputs = provider.create(wanted | {"tags": OWNER | {"old": "1"}})
    updated = provider.update(made, outputs, wanted | {"tags": OWNER | {"new": "2"}, "deletion_protection": True})
    live = client.indexes.describe(wanted["name"])
    assert dict(live.tags or {}) == OWNER | {"new": "2"}
    assert live.deletion_protection == "enabled"
    assert updated["tags"] == OWNER | {"new": "2"}
    assert updated["host"] == outputs["host"]


def test_an_update_of_an_index_that_is_gone_says_what_to_do(provider: ProviderProcess, wanted: dict[str, Any]) -> None:
    with pytest.raises(grpc.RpcError) as error:
        provider.update(wanted["name"], wanted, wanted)
    assert "is gone from Pinecone; run `pulumi refresh`" in sentence(error)


def test_a_deleted_index_is_gone(provider: ProviderProcess, client: Pinecone, wanted: dict[str, Any]) -> None:
    made, outputs = provider.create(wanted)
    provider.delete(made, outputs)
    assert not client.indexes.exists(wanted["name"])


def test_deleting_what_is_gone_is_fine(provider: ProviderProcess, wanted: dict[str, Any]) -> None:
    provider.delete(wanted["name"], wanted)


def test_a_protected_index_is_not_deleted(provider: ProviderProcess, client: Pinecone, wanted: dict[str, Any]) -> None:
    made, outputs = provider.create(wanted | {"deletion_protection": True})
    with pytest.raises(grpc.RpcError) as error:
        provider.delete(made, outputs)
    assert "is protected; run `pulumi config set deletionProtection false`" in sentence(error)
    assert client.indexes.exists(wanted["name"])


def test_a_replacement_with_the_same_name_is_deleted_then_made(
    provider: ProviderProcess, client: Pinecone, wanted: dict[str, Any]
) -> None:
    made, outputs = provider.create(wanted)
    changed = wanted | {"dimension": 768}
    assert provider.diff(made, outputs, changed).deleteBeforeReplace
    provider.delete(made, outputs)
    provider.create(changed)
    assert client.indexes.describe(wanted["name"]).dimension == 768


@pytest.mark.parametrize(
    ("key", "value"), [("name", ""), ("name", "x" * 46), ("dimension", 0), ("dimension", 20_001), ("metric", "hamming")]
)
def test_what_no_index_can_be_is_refused_before_pinecone_is_asked(
    provider: ProviderProcess, wanted: dict[str, Any], key: str, value: object
) -> None:
    assert provider.check(wanted) == []
    ((refused, reason),) = provider.check(wanted | {key: value})
    assert refused == key
    assert repr(value) in reason


def test_the_state_holds_the_providers_name_not_its_code() -> None:
    """So that a new version of the code is no change of the index, and old state works with it."""
    pickled = serialize_provider(VectorIndexProvider())
    assert pickled == serialize_provider(VectorIndexProvider())
    names = [argument for _, argument, _ in pickletools.genops(base64.b64decode(pickled)) if isinstance(argument, str)]
    assert "components.pinecone_provider" in names
    assert "VectorIndexProvider" in names
    assert len(pickled) < 500
