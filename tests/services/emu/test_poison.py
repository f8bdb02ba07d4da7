"""What cannot be processed is set aside alone, with the reason, and told to people without its contents."""

import json
import logging
import threading
from collections import Counter
from collections.abc import Sequence

import boto3
import numpy as np
import orjson
import pytest

from aviary.index import Record, Vector
from aviary.messages import DeadLetter, encode
from emu.queue import SqsQueue
from emu.validation import fault
from emu.worker import Emu
from tests.services.emu.embedders import HashEmbedder
from tests.services.emu.helpers import Bench, batch, counters, upsert, wait_until

SECRET = "the contents of a row"


def test_a_message_that_is_not_json_goes_to_the_dead_letter_queue_at_the_first_receive(bench: Bench) -> None:
    bench.send("this is { not json", batch(upsert("1", 1)))
    stats = bench.work()
    (letter,) = bench.dead_letters()
    assert letter.body == "this is { not json"
    assert "not a message of ours" in letter.reason
    assert bench.stored() == {"1": 1}, "the message behind it in its group goes on"
    assert bench.left() == 0
    assert counters(stats, "poisoned", "received") == {"poisoned": 1, "received": 2}


@pytest.mark.parametrize(
    "body",
    [
        '{"format": 1}',
        '{"format": "one"}',
        "null",
        '{"format":1,"source":"s","namespace":"n","model":"m","shard":1,"captured_at_ms":1,"expires_at_ms":2,"changes":[{"key":"","version":1,"op":"delete"}]}',
    ],
)
def test_json_that_is_not_a_batch_goes_to_the_dead_letter_queue(bench: Bench, body: str) -> None:
    bench.send(body)
    bench.work()
    assert [letter.body for letter in bench.dead_letters()] == [body]
    assert bench.left() == 0


def test_a_message_of_a_future_format_goes_to_the_dead_letter_queue_as_it_came(bench: Bench) -> None:
    body = json.dumps({"format": 2, "something": "new"})
    bench.send(body)
    bench.work()
    (letter,) = bench.dead_letters()
    assert letter.body == body
    assert letter.reason == "message format 2 is not known here (only 1); update this service"


def test_a_message_for_another_model_goes_to_the_dead_letter_queue_and_is_not_embedded(bench: Bench) -> None:
    other = batch(upsert("1", 1), model="another-model")
    bench.send(other)
    embedder = HashEmbedder()
    bench.work(embedder)
    (letter,) = bench.dead_letters()
    assert letter.body == encode(other)
    assert "'another-model'" in letter.reason
    assert "all-MiniLM-L6-v2" in letter.reason
    assert embedder.calls == []
    assert bench.stored() == {}


def test_a_message_too_long_to_be_put_into_a_letter_goes_as_it_came(bench: Bench) -> None:
    body = '"\\"' * 80_000
    bench.send(body)
    bench.work()
    assert bench.dead_bodies() == [body]


def test_a_dead_letter_put_back_into_the_queue_returns_to_the_dead_letter_queue(bench: Bench) -> None:
    body = encode(DeadLetter(reason="r", failed_at_ms=1, change=upsert("1", 1)))
    bench.send(body)
    bench.work()
    assert [letter.body for letter in bench.dead_letters()] == [body]
    assert bench.stored() == {}


class TooSmall(HashEmbedder):
    """Makes a vector for SECRET that looks right, and that the index refuses."""

    def embed(self, texts: Sequence[str], *, urgent: bool = True) -> Vector:
        vectors = super().embed(texts)
        vectors[[text == SECRET for text in texts]] = 1e-30
        return vectors


def test_one_row_that_pinecone_refuses_is_set_aside_and_its_neighbours_are_indexed(bench: Bench) -> None:
    refused = upsert("13", 4, SECRET)
    bench.send(batch(*(upsert(str(n), 4) if n != 13 else refused for n in range(40))))
    embedder = TooSmall()
    stats = bench.work(embedder)
    assert sorted(map(int, bench.stored())) == [n for n in range(40) if n != 13]
    (letter,) = bench.dead_letters()
    assert letter.change == refused
    assert (letter.source, letter.namespace, letter.model) == ("products", "products", "all-MiniLM-L6-v2")
    assert "Pinecone refuses it: [400] Vector values are too large or too small" in letter.reason
    assert bench.left() == 0
    assert len(embedder.calls) == 1, "neighbours are not embedded again"
    assert counters(stats, "upserted", "poisoned", "retries") == {"upserted": 39, "poisoned": 1, "retries": 0}
    assert bench.pinecone.counts()["upsert"]["requests"] <= 1 + 2 * 6


def test_metadata_over_pinecones_limit_is_set_aside_before_it_is_sent(bench: Bench) -> None:
    big = upsert("big", 1, metadata={"a": "x" * 41_000})
    bench.send(batch(upsert("1", 1), big, upsert("2", 1)))
    bench.work()
    assert bench.stored() == {"1": 1, "2": 1}
    (letter,) = bench.dead_letters()
    assert letter.change == big
    assert "more than the 40960" in letter.reason
    assert bench.pinecone.counts()["upsert"] == {"requests": 1, "errors": 0, "records": 2}


class FailsOn(HashEmbedder):
    """Fails on any batch with a certain text; with `broken`, on every batch."""

    def __init__(self, text: str, *, broken: bool = False) -> None:
        super().__init__()
        self.text = text
        self.broken = broken

    def embed(self, texts: Sequence[str], *, urgent: bool = True) -> Vector:
        if self.broken or self.text in texts:
            raise RuntimeError("the model failed")
        return super().embed(texts)


def test_a_text_that_the_model_fails_on_is_set_aside_and_its_neighbours_are_indexed(bench: Bench) -> None:
    bench.send(batch(upsert("1", 1), upsert("2", 1, SECRET), upsert("3", 1)))
    bench.work(FailsOn(SECRET))
    assert bench.stored() == {"1": 1, "3": 1}
    (letter,) = bench.dead_letters()
    assert letter.change is not None
    assert letter.change.key == "2"


def test_an_embedder_that_fails_on_everything_sets_nothing_aside(bench: Bench) -> None:
    bench.send(batch(upsert("1", 1)))
    stats = bench.work(FailsOn(SECRET, broken=True))
    assert counters(stats, "poisoned", "acknowledged", "errors") == {"poisoned": 0, "acknowledged": 0, "errors": 1}
    assert bench.dead_bodies() == []
    assert bench.left() == 1


class NotFinite(HashEmbedder):
    def embed(self, texts: Sequence[str], *, urgent: bool = True) -> Vector:
        vectors = super().embed(texts)
        vectors[[text == SECRET for text in texts]] = np.nan
        return vectors


def test_a_vector_that_is_not_finite_is_never_sent(bench: Bench) -> None:
    bench.send(batch(upsert("1", 1), upsert("2", 1, SECRET)))
    bench.work(NotFinite())
    assert bench.stored() == {"1": 1}
    assert "not finite" in bench.dead_letters()[0].reason


def test_a_message_is_not_acknowledged_while_the_dead_letter_queue_does_not_take_its_row(bench: Bench) -> None:
    bench.send("not json", batch(upsert("1", 1)))
    emu = bench.emu(dlq_url=bench.queues.dlq_url.replace("-dlq", "-gone"))
    thread = threading.Thread(target=emu.run)
    thread.start()
    wait_until(lambda: emu.snapshot()["errors"], "the first try to set the message aside")
    emu.stop()
    thread.join(20)
    assert bench.left() == 2
    assert counters(emu.snapshot(), "acknowledged", "poisoned") == {"acknowledged": 0, "poisoned": 0}
    bench.work()
    assert len(bench.dead_letters()) == 1
    assert bench.stored() == {"1": 1}


def test_a_row_set_aside_twice_within_minutes_is_one_dead_letter(bench: Bench) -> None:
    big = upsert("big", 1, metadata={"a": "x" * 41_000})
    bench.send(batch(big), batch(big))
    bench.work()
    bench.send(batch(big))
    bench.work()
    assert len(bench.dead_letters()) == 1


def test_people_are_told_how_many_and_why_but_no_contents(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    sns = boto3.client("sns", endpoint_url=bench.queues.endpoint, region_name="us-east-1")
    topic = sns.create_topic(Name="alerts")["TopicArn"]
    inbox = bench.queues.client.create_queue(QueueName="alerts-inbox")["QueueUrl"]
    arn = bench.queues.client.get_queue_attributes(QueueUrl=inbox, AttributeNames=["QueueArn"])["Attributes"][
        "QueueArn"
    ]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    settings = bench.settings(topic_arn=topic)
    queue = SqsQueue(bench.queues.client, settings.queue_url, settings.dlq_url)
    emu = Emu(settings, queue=queue, index=bench.index, embedder=HashEmbedder(), sns=sns)
    big = [upsert(f"{SECRET} {n}", 1, SECRET, metadata={"a": SECRET * 2_000}) for n in range(30)]
    bench.send(SECRET, batch(*big[:15]), batch(*big[15:]))
    with caplog.at_level(logging.DEBUG, logger="emu"):
        emu.run_until_idle()
    received = bench.queues.client.receive_message(QueueUrl=inbox, MaxNumberOfMessages=10)["Messages"]
    assert len(received) <= 2, "31 rows are not 31 notices"
    notices = [orjson.loads(orjson.loads(message["Body"])["Message"]) for message in received]
    kinds: Counter[str] = Counter()
    for notice in notices:
        kinds.update(notice["kinds"])
        assert notice["dead_letter_queue"] == bench.queues.dlq_url
        assert len(notice["key_hashes"]) <= 20
    assert kinds == {"unreadable": 1, "products: invalid_record": 30}
    assert SECRET not in orjson.dumps(notices).decode()
    assert not any(SECRET in str(record.__dict__) for record in caplog.records if record.name.startswith("emu"))
    sns.close()


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (Record("1", np.ones(3, np.float32), {}), "shape (3,)"),
        (Record("1", np.zeros(384, np.float32), {}), "zero"),
        (Record("1", np.full(384, np.inf, np.float32), {}), "not finite"),
        (Record("é", np.ones(384, np.float32), {}), "ASCII"),
        (Record("x" * 513, np.ones(384, np.float32), {}), "513 characters"),
        (Record("1", np.ones(384, np.float32), {"$set": "x"}), "starts with $"),
        (Record("1", np.ones(384, np.float32), {"x": float("nan")}), "finite"),
        (Record("1", np.ones(384, np.float32), {"x": "é" * 20_500}), "40960"),
    ],
)
def test_a_record_that_pinecone_cannot_hold_is_known_before_it_is_sent(record: Record, words: str) -> None:
    assert words in (fault(record, 384) or "")


def test_a_record_at_the_limits_is_sent(bench: Bench) -> None:
    record = Record("x" * 512, np.ones(384, np.float32), {"a": "x" * (40_960 - len('{"a":""}'))})
    assert fault(record, 384) is None
    bench.index.upsert("products", [record])
