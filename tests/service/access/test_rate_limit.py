"""Rate limits: the bucket, and the answers of the service."""

import time
from pathlib import Path
from unittest import mock

import pytest

from limelight.api_keys import entry, hash_key
from service.access.rate_limit import RateLimits
from service.caller import Caller
from service.settings import Settings
from tests.service.access.kit import KEYS, bearer
from tests.service.test_app import PNG, Served


def caller(rate: float | None, burst: float | None = None, name: str = "shop") -> Caller:
    return Caller(name=name, scopes=frozenset(), rate=rate, burst=burst)


def allowed(
    limits: RateLimits, who: Caller, *, seconds: float, each_s: float = 0.01, since: float = 0
) -> int:
    """Return how many of the requests at a constant interval are allowed."""
    found = 0
    with mock.patch.object(time, "perf_counter") as clock:
        for number in range(round(seconds / each_s)):
            clock.return_value = since + number * each_s
            found += limits.wait_s(who) == 0
    return found


@pytest.mark.parametrize(("workers", "expected"), [(1, 100 + 10), (2, 50 + 5), (4, 25 + 2.5)])
def test_each_worker_allows_its_part_of_the_rate_and_of_the_burst(
    workers: int, expected: float
) -> None:
    found = allowed(RateLimits(workers), caller(rate=10), seconds=10)
    assert found == pytest.approx(expected, abs=1)


def test_burst_may_be_larger_than_the_rate_and_is_at_least_one_request() -> None:
    assert allowed(RateLimits(1), caller(rate=1, burst=50), seconds=0.5) == 50
    assert allowed(RateLimits(8), caller(rate=1), seconds=8) == 1


def test_time_to_wait_is_the_time_until_the_next_token() -> None:
    limits, who = RateLimits(1), caller(rate=4, burst=1)
    with mock.patch.object(time, "perf_counter") as clock:
        clock.return_value = 0.0
        assert limits.wait_s(who) == 0
        assert limits.wait_s(who) == pytest.approx(0.25)
        clock.return_value = 0.2
        assert limits.wait_s(who) == pytest.approx(0.05)
        clock.return_value = 0.25
        assert limits.wait_s(who) == 0


def test_callers_do_not_share_a_bucket_and_a_new_rate_counts_at_once() -> None:
    limits = RateLimits(1)
    assert allowed(limits, caller(rate=1), seconds=1) == 1
    assert allowed(limits, caller(rate=1, name="other"), seconds=1) == 1
    assert allowed(limits, caller(rate=None), seconds=1) == 100
    assert allowed(limits, caller(rate=100), seconds=1, since=1) >= 99


async def test_requests_above_the_rate_get_429_and_the_others_do_not(
    zoo: Path, tmp_path: Path
) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(
        entry("shop", hash_key(KEYS["shop"]), scopes=("predict",), rate=0.01)
        + "burst = 3\n"
        + entry("maps", hash_key(KEYS["maps"]), scopes=("predict",))
    )
    settings = Settings(models=zoo, default_model="colours", device="cpu", keys_file=file)
    async with Served(settings) as served:
        found = [
            await served.http.post("/predict", content=PNG, headers=bearer("shop"))
            for _ in range(5)
        ]
        assert [each.status_code for each in found] == [200, 200, 200, 429, 429]
        assert found[-1].json()["code"] == "rate_limited"
        assert 90 <= int(found[-1].headers["retry-after"]) <= 100
        infer = await served.http.post("/v2/models/colours/infer", headers=bearer("shop"))
        assert infer.status_code == 429
        assert list(infer.json()) == ["error"]
        other = await served.http.post("/predict", content=PNG, headers=bearer("maps"))
        assert other.status_code == 200
        document = (await served.http.get("/openapi.json", headers=bearer("maps"))).json()
        assert "Retry-After" in document["paths"]["/predict"]["post"]["responses"]["429"]["headers"]
        assert (await served.http.get("/livez")).status_code == 200


async def test_refused_scope_does_not_use_up_the_rate(zoo: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(entry("shop", hash_key(KEYS["shop"]), scopes=("predict",), rate=0.01))
    settings = Settings(models=zoo, default_model="colours", device="cpu", keys_file=file)
    async with Served(settings) as served:
        for path, status in (("/explain", 403), ("/explain", 403), ("/predict", 200)):
            response = await served.http.post(path, content=PNG, headers=bearer("shop"))
            assert response.status_code == status
