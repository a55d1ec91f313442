"""Who waits, who is refused, and who joins the next step: a plain object without thread, clock or model.

Laws, tested over thousands of simulated schedules:
- A running batch never has more than `max_rows` rows, nor costs more than `max_tokens`, unless it is one generation
  alone. The queue never holds more than `max_queued` generations or `max_queued_cost`.
- What joins together is at most `max_join_tokens` padded source tokens (or one source), and where padding would cost
  something, no source is more than twice as long as another.
- Nobody starves: of the generations that arrived later, at most `window` overtake any one. Similar lengths are looked
  for among those that arrived within `window` places of the oldest waiting, so when that one does not fit, the batch
  runs empty until it does.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from app.errors import DeadlineError, DrainingError, OverloadedError, TooLargeError
from app.serving.generation import Generation

# Below this length padding is cheap, and any sources may be read together.
_SHORT_SOURCE = 32
# The drain rate is an average over about this long a time of work.
_RATE_MEMORY_S = 20.0
# Before so much work was seen, the rate is anyone's guess.
_RATE_WARM_UP_S = 1.0
_RETRY_UNKNOWN_S = 1.0
_RETRY_LONGEST_S = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Budgets. A generation costs its source and expected target positions, every row counted (`Generation.cost`)."""

    max_queued: int = 1024
    max_queued_cost: int = 200_000
    max_rows: int = 128
    max_tokens: int = 16_384
    max_join_tokens: int = 1024
    window: int = 64


class Scheduler:
    """The queue of one model. `now` is in seconds of any clock, the one that deadlines are in."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._waiting: dict[int, Generation] = {}  # by arrival number, oldest first
        self._numbers: dict[Generation, int] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._num_arrivals = 0
        self._queued_cost = 0
        self._is_draining = False
        self._drained_cost = 0.0
        self._drained_s = 0.0

    def __len__(self) -> int:
        """Generations that wait."""
        return len(self._waiting)

    @property
    def queued_cost(self) -> int:
        return self._queued_cost

    @property
    def drain_rate(self) -> float | None:
        """Cost that the model works off in a second, or None before that is known."""
        is_known = self._drained_s >= _RATE_WARM_UP_S and self._drained_cost > 0
        return self._drained_cost / self._drained_s if is_known else None

    def offer(self, generations: Sequence[Generation], now: float) -> None:
        """Queue all of them, or none.

        Raises: DrainingError, TooLargeError where they would not fit an empty queue, OverloadedError where they do not
        fit now, DeadlineError where time is up or will be before their turn comes.
        """
        cost, limits = sum(generation.cost for generation in generations), self.limits
        if self._is_draining:
            raise DrainingError("the service is shutting down and takes no new work", self._retry_after_s(cost))
        widest = max((generation.num_rows for generation in generations), default=0)
        if widest > limits.max_rows:
            raise TooLargeError(f"{widest} hypotheses are searched at once, the limit is {limits.max_rows}")
        if len(generations) > limits.max_queued or cost > limits.max_queued_cost:
            raise TooLargeError(
                f"the request has {len(generations)} parts of together {cost} tokens; "
                f"at most {limits.max_queued} parts of {limits.max_queued_cost} tokens can wait: send less at once"
            )
        if len(self) + len(generations) > limits.max_queued or self._queued_cost + cost > limits.max_queued_cost:
            raise OverloadedError("too many requests are waiting; send it again later", self._retry_after_s(cost))
        wait_s = 0.0 if self.drain_rate is None else self._queued_cost / self.drain_rate
        if any(generation.deadline <= now + wait_s for generation in generations):
            raise DeadlineError(f"its turn comes in about {wait_s:.1f} s, and by then the time for this request is up")
        for generation in generations:
            self._num_arrivals += 1
            self._waiting[self._num_arrivals] = generation
            self._numbers[generation] = self._num_arrivals
            if generation.deadline < math.inf:
                heapq.heappush(self._deadlines, (generation.deadline, self._num_arrivals))
        self._queued_cost += cost

    def discard(self, generation: Generation) -> bool:
        """Forget one that waits; False where it does not."""
        number = self._numbers.pop(generation, None)
        if number is None:
            return False
        del self._waiting[number]
        self._queued_cost -= generation.cost
        return True

    def clear(self) -> list[Generation]:
        """Take out all that wait."""
        waiting = list(self._waiting.values())
        for generation in waiting:
            self.discard(generation)
        return waiting

    def expired(self, now: float) -> list[Generation]:
        """Take out those whose time is up."""
        late = []
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][1] not in self._waiting):
            _, number = heapq.heappop(self._deadlines)
            if number in self._waiting:
                late.append(self._waiting[number])
                self.discard(late[-1])
        return late

    def next_jobs(self, running_rows: int, running_tokens: int, among: int = 1) -> list[Generation]:
        """Take out who joins a batch that has these rows, and generations of together this cost.

        Where so many batches (`among`) could take what waits, it is this one's share.
        """
        free_rows, free_tokens = self.limits.max_rows - running_rows, self.limits.max_tokens - running_tokens
        if not self._waiting or free_rows <= 0:
            return []
        eligible = self._eligible()
        if running_rows == 0 and eligible:
            first = eligible[0]
        else:
            fitting = (one for one in eligible if one.num_rows <= free_rows and one.cost <= free_tokens)
            if (found := next(fitting, None)) is None:
                return []
            first = found
        share = -(-len(self._waiting) // among)
        joining = self._similar(first, eligible, free_rows, free_tokens)[:share]
        for generation in joining:
            self.discard(generation)
        return joining

    def drain(self) -> None:
        """Refuse all that comes from now on; what waits stays."""
        self._is_draining = True

    def record(self, cost: int, busy_s: float) -> None:
        """The model worked for `busy_s` and got so many positions done; time in which it idled does not count."""
        keep = math.exp(-busy_s / _RATE_MEMORY_S)
        self._drained_cost = self._drained_cost * keep + cost
        self._drained_s = self._drained_s * keep + busy_s

    def _eligible(self) -> list[Generation]:
        """Those that wait and arrived within the window of the oldest, oldest first."""
        eligible: list[Generation] = []
        last = 0
        for number, generation in self._waiting.items():
            last = last or number + self.limits.window
            if number > last:
                break
            eligible.append(generation)
        return eligible

    def _similar(
        self, first: Generation, eligible: list[Generation], free_rows: int, free_tokens: int
    ) -> list[Generation]:
        """`first` and as many others as fit, those nearest in length before others."""
        length = len(first.source)
        joining, shortest, longest = [first], length, length
        free_rows -= first.num_rows
        free_tokens -= first.cost
        for generation in sorted(eligible, key=lambda one: abs(len(one.source) - length)):
            if free_rows <= 0:
                break
            if generation is first or generation.num_rows > free_rows or generation.cost > free_tokens:
                continue
            short, long = min(shortest, len(generation.source)), max(longest, len(generation.source))
            if long > max(_SHORT_SOURCE, 2 * short) or (len(joining) + 1) * long > self.limits.max_join_tokens:
                continue
            joining.append(generation)
            shortest, longest = short, long
            free_rows -= generation.num_rows
            free_tokens -= generation.cost
        return joining

    def _retry_after_s(self, cost: int) -> float:
        """When there should be room for `cost`, at the rate at which work is done."""
        if self.drain_rate is None:
            return _RETRY_UNKNOWN_S
        surplus = self._queued_cost + cost - self.limits.max_queued_cost
        if surplus <= 0:  # the number of generations is over the limit, not their cost
            surplus = cost
        return min(max(surplus / max(self.drain_rate, 1.0), _RETRY_UNKNOWN_S), _RETRY_LONGEST_S)
