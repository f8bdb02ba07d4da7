"""Many changes, several Emus, an index that fails at random: the newest state of every key is what stays."""

import random
import threading

from aviary.messages import Change
from aviary.source import text_hash
from tests.services.emu.embedders import vector_of
from tests.services.emu.helpers import NAMESPACE, Bench, batch, delete, upsert

KEYS = 60
MESSAGES = 150
SHARDS = 4


def test_several_emus_and_an_index_that_fails_at_random_end_in_the_newest_state_of_every_key(bench: Bench) -> None:
    choice = random.Random(7)
    newest: dict[str, Change] = {}
    for version in range(1, MESSAGES + 1):
        shard = choice.randrange(SHARDS)
        changes: list[Change] = []
        for key in choice.sample(range(shard, KEYS, SHARDS), 6):
            kind = choice.random()
            change = (
                delete(str(key), version) if kind < 0.3 else upsert(str(key), version, f"text {choice.randrange(50)}")
            )
            changes.append(change)
            newest[change.key] = change
        lane = choice.choice(["live", "backfill"])
        bench.send(batch(*changes, lane=lane), group=f"1-{shard}")
    bench.pinecone.faults(probability=0.1, outcome="reset", applied=True, seed=1)
    bench.pinecone.faults(probability=0.1, outcome="status", status=503, seed=2)
    emus = [bench.emu() for _ in range(3)]
    threads = [threading.Thread(target=emu.run_until_idle) for emu in emus]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    bench.pinecone.server.clear_faults()
    bench.work()  # a group that one Emu held while the others found nothing to do
    assert bench.left() == 0
    assert bench.dead_bodies() == []
    assert bench.stored() == {key: change.version for key, change in newest.items() if change.op == "upsert"}
    for record in bench.index.fetch(
        NAMESPACE, [key for key, change in newest.items() if change.op == "upsert"]
    ).values():
        text = newest[record.id].text
        assert record.metadata["_text_hash"] == text_hash(text)
        assert (record.values == vector_of(text)).all()
