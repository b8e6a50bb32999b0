from __future__ import annotations

import hashlib
import hmac

import numpy as np
import pytest
from scipy import stats

from tollgate.experiments.assignment import assign, bucket, hash_user

USERS = [f"user-{i}" for i in range(20_000)]


def test_buckets_are_the_digest_and_do_not_change_between_releases() -> None:
    digest = hashlib.sha256(b"saltuser").digest()
    assert bucket("salt", "user") == int.from_bytes(digest, "big") / 2**256 // 2**-53 * 2**-53
    assert bucket("salt", "홍길동") == bucket("salt", "홍길동")


def test_buckets_are_uniform_and_independent_between_salts() -> None:
    first = np.array([bucket("one", user) for user in USERS])
    second = np.array([bucket("two", user) for user in USERS])
    assert first.min() >= 0
    assert first.max() < 1
    assert stats.kstest(first, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03


def test_shares_are_those_of_the_split_and_the_order_of_names_does_not_matter() -> None:
    arms = [assign("salt", user, {"a": 0.9, "b": 0.1}) for user in USERS]
    assert arms == [assign("salt", user, {"b": 0.1, "a": 0.9}) for user in USERS]
    assert arms.count("b") / len(arms) == pytest.approx(0.1, abs=0.01)


def test_a_growing_challenger_takes_users_and_gives_none_back() -> None:
    small = {user for user in USERS if assign("salt", user, {"a": 0.75, "b": 0.25}) == "b"}
    large = {user for user in USERS if assign("salt", user, {"a": 0.5, "b": 0.5}) == "b"}
    assert small < large


def test_an_arm_without_share_gets_nobody_and_no_arm_at_all_is_refused() -> None:
    assert {assign("salt", user, {"a": 1.0, "b": 0.0}) for user in USERS} == {"a"}
    with pytest.raises(ValueError, match="arm"):
        assign("salt", "user", {})


def test_pseudonyms_depend_on_the_secret() -> None:
    assert hash_user("010-1234-5678", "secret") == hmac.digest(b"secret", b"010-1234-5678", "sha256").hex()
    assert hash_user("010-1234-5678", "secret") != hash_user("010-1234-5678", "other")
