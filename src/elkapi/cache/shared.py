"""The stored answers of all hosts, in the Redis of `redis_url`.

Every wait has a short deadline, and a Redis that failed is left alone for a while, so a dead one costs misses but no
time. Keys expire there by themselves; an index by age keeps bytes and entries within the limits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from elkapi.cache.store import Bounds, StoreDown
from elkapi.clock import Clock

PAUSE_S = 5.0
PUT_WAIT_S = 2.0
CONNECTIONS_MAX = 64
# One hash slot, so that a cluster accepts the script.
PREFIX = b"elkapi:{answers}:"
AGES, SIZES, TOTAL = PREFIX + b"ages", PREFIX + b"sizes", PREFIX + b"bytes"
# Whatever leaves the index, by age or for room, leaves the totals and the keys in the same step.
_PUT = """
local prefix, name, sealed, size = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local function forget(which)
    redis.call('DEL', prefix .. which)
    redis.call('ZREM', KEYS[1], which)
    local had = redis.call('HGET', KEYS[2], which)
    if had then
        redis.call('HDEL', KEYS[2], which)
        redis.call('DECRBY', KEYS[3], had)
    end
end
forget(name)
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[6], 'LIMIT', 0, 1000)) do forget(old) end
redis.call('SET', prefix .. name, sealed, 'PX', ARGV[7])
redis.call('ZADD', KEYS[1], ARGV[5], name)
redis.call('HSET', KEYS[2], name, size)
redis.call('INCRBY', KEYS[3], size)
while redis.call('ZCARD', KEYS[1]) > tonumber(ARGV[9])
    or tonumber(redis.call('GET', KEYS[3])) > tonumber(ARGV[8]) do
    local oldest = redis.call('ZRANGE', KEYS[1], 0, 0)
    if #oldest == 0 then
        redis.call('SET', KEYS[3], 0)
        break
    end
    forget(oldest[1])
end
"""


class RedisStore:
    """One worker's access to the shared Redis; a lookup takes at most `wait_s`."""

    def __init__(self, url: str, bounds: Bounds, clock: Clock, wait_s: float) -> None:
        self._bounds = bounds
        self._clock = clock
        self._wait_s = wait_s
        self._down_until_s = 0.0
        # The client has no queue: it treats a call beyond its connections as a failure.
        self._places = asyncio.Semaphore(CONNECTIONS_MAX)
        self._redis: Redis = Redis.from_url(
            url,
            socket_timeout=PUT_WAIT_S,
            socket_connect_timeout=PUT_WAIT_S,
            max_connections=CONNECTIONS_MAX,
            retry=Retry(NoBackoff(), 0),
        )

    async def get(self, name: bytes) -> bytes | None:
        """The sealed answer, or None. Raises StoreDown."""
        found: bytes | None = await self._asked(lambda: self._redis.get(PREFIX + name), self._wait_s)
        return found

    async def put(self, name: bytes, created_ns: int, sealed: bytes) -> None:
        """Store an answer and remove the oldest ones beyond the limits. Raises StoreDown."""
        bounds = self._bounds
        if len(sealed) > bounds.bytes_max:
            return
        age_ms = round(bounds.age_s_max * 1000)
        created_ms = created_ns // 1_000_000
        too_old_ms = self._clock.now_ns() // 1_000_000 - age_ms
        given: list[Any] = [PREFIX, name, sealed, len(sealed), created_ms, too_old_ms, max(1, age_ms)]
        given += [bounds.bytes_max, bounds.entries_max]
        # The whole script each time instead of its hash, which a server may forget in between.
        await self._asked(lambda: self._redis.eval(_PUT, 3, AGES, SIZES, TOTAL, *given), PUT_WAIT_S)

    async def _asked(self, question: Callable[[], Awaitable[Any]], wait_s: float) -> Any:
        if self._clock.monotonic_s() < self._down_until_s:
            raise StoreDown("Redis failed a moment ago")
        try:
            async with asyncio.timeout(wait_s), self._places:
                return await question()
        except (RedisError, OSError, TimeoutError) as error:
            self._down_until_s = self._clock.monotonic_s() + PAUSE_S
            raise StoreDown(str(error) or "Redis did not answer in time") from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
