"""SQS FIFO in memory, with its promises and with its traps; both of the services' adapters in one.

Groups, receipts and visibility are as SQS documents them. A deduplication id counts for five minutes; a receive gives
nothing of a group of which a message is out; a receipt is worth nothing once its lease has ended.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/FIFO-queues.html
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from botocore.exceptions import EndpointConnectionError

from aviary.depth import Depth
from emu.queue import BATCH_LIMIT, Received
from pelican.packing import Message, calls
from pelican.sqs import QueueError
from tests.model.stepping import Clock, Outcome, pause

DEDUPLICATION_SECONDS = 300


@dataclass
class Stored:
    """A message in the queue. Out while `visible_at` lies ahead."""

    id: str
    group: str
    body: str
    sent_at_ms: int
    times: int = 0
    receipt: str = ""
    visible_at: float = 0.0


class QueueModel:
    """The change queue, with its dead letters. `travelling`: sends that nobody waits for any more, under way."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._numbers = itertools.count(1)
        self._taken_until: dict[str, float] = {}
        self.messages: list[Stored] = []
        self.travelling: list[list[Message]] = []
        self.dead: list[str] = []

    # ---- what Pelican sees

    def send(self, messages: Sequence[Message]) -> int | None:
        for call in calls(messages):
            outcome = pause("queue.send")
            match outcome:
                case Outcome.LATE:
                    self.travelling.append(call)
                case Outcome.PART:
                    self._take(call[1::2])
                case Outcome.GO | Outcome.LOSE:
                    self._take(call)
            if outcome is not Outcome.GO:
                raise QueueError("the model's queue did not confirm a send")
        # As the Date of an answer tells it: the end of that second.
        return self._clock.wall_ms() // 1_000 * 1_000 + 999

    def set_aside(self, messages: Sequence[Message]) -> None:
        self.dead.extend(message.body for message in messages)

    def depth(self) -> Depth:
        now = self._clock.monotonic()
        held = sum(message.visible_at > now for message in self.messages)
        return Depth(len(self.messages) - held, held)

    # ---- what Emu sees

    def receive(self, wait_seconds: int, visibility_seconds: int) -> list[Received]:
        outcome = pause("queue.receive")
        if outcome is Outcome.FAIL:
            raise EndpointConnectionError(endpoint_url="model")
        limit = 1 if outcome is Outcome.PART else BATCH_LIMIT
        now = self._clock.monotonic()
        blocked = {message.group for message in self.messages if message.visible_at > now}
        given = [message for message in self.messages if message.group not in blocked][:limit]
        for message in given:
            message.times += 1
            message.receipt = f"{message.id}/{message.times}"
            message.visible_at = now + visibility_seconds
        if outcome in (Outcome.LOSE, Outcome.LATE):
            raise EndpointConnectionError(endpoint_url="model")
        return [Received(m.id, m.receipt, m.body, m.group, m.times, m.sent_at_ms) for m in given]

    def delete(self, messages: Sequence[Received]) -> list[Received]:
        outcome = pause("queue.delete")
        if outcome is Outcome.FAIL:
            raise EndpointConnectionError(endpoint_url="model")
        some = messages[1::2] if outcome is Outcome.PART else messages
        refused = [message for message in messages if message not in some or not self._is_out(message)]
        done = {message.id for message in messages if message not in refused}
        self.messages = [message for message in self.messages if message.id not in done]
        if outcome in (Outcome.LOSE, Outcome.LATE):
            raise EndpointConnectionError(endpoint_url="model")
        return refused

    def change_visibility(self, messages: Sequence[Received], seconds: int) -> bool:
        outcome = pause("queue.change_visibility")
        if outcome is Outcome.FAIL:
            raise EndpointConnectionError(endpoint_url="model")
        ours = {message.receipt for message in messages if self._is_out(message)}
        for message in self.messages:
            if message.receipt in ours:
                message.visible_at = self._clock.monotonic() + seconds
        if outcome in (Outcome.LOSE, Outcome.LATE):
            raise EndpointConnectionError(endpoint_url="model")
        return len(ours) == len(messages)

    def dead_letter(self, body: str, *, group: str, deduplication_id: str) -> None:
        self.dead.append(body)

    # ---- what nobody sees

    def arrive(self) -> None:
        """The oldest of the sends under way arrives."""
        if self.travelling:
            self._take(self.travelling.pop(0))

    def _take(self, messages: Sequence[Message]) -> None:
        now = self._clock.monotonic()
        for message in messages:
            if self._taken_until.get(message.deduplication_id, 0.0) > now:
                continue
            self._taken_until[message.deduplication_id] = now + DEDUPLICATION_SECONDS
            number = str(next(self._numbers))
            self.messages.append(Stored(number, message.group, message.body, self._clock.wall_ms()))

    def _is_out(self, message: Received) -> bool:
        now = self._clock.monotonic()
        return any(m.receipt == message.receipt and m.visible_at > now for m in self.messages)
