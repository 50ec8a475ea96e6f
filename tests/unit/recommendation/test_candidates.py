"""Candidate generation on a small made-up shop: every source, their union, and users and items never seen."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from whiteboard.errors import ModelError, NotEnoughDataError
from whiteboard.recommendation.candidates import SOURCES, Retrieval, RetrievalConfig, catalogue_of
from whiteboard.recommendation.similarity import Content, CoVisitation, sessions

KINDS = ("garden", "kitchen", "sports", "books")
ITEMS_A_KIND = 50
USERS = 200


def catalogue() -> pd.DataFrame:
    rows = [
        (f"{kind}-{i:02d}", f"{kind} thing number {i}", f"{kind}|home") for kind in KINDS for i in range(ITEMS_A_KIND)
    ]
    return pd.DataFrame(rows, columns=["item_id", "title", "categories"])


def clicks(seed: int = 0) -> pd.DataFrame:
    """Every user clicks twelve items of one kind within one session, and two of any other a day later."""
    rng = np.random.default_rng(seed)
    start = pd.Timestamp("2026-01-01", tz="UTC")
    rows = []
    for user in range(USERS):
        kind = KINDS[user % len(KINDS)]
        wanted = [f"{kind}-{i:02d}" for i in rng.choice(ITEMS_A_KIND - 5, 12, replace=False)]  # five sell nothing
        wanted += [f"{rng.choice(KINDS)}-{rng.integers(ITEMS_A_KIND - 5):02d}" for _ in range(2)]
        at = [start + pd.Timedelta(minutes=5 * n + (24 * 60 if n >= 12 else 0)) for n in range(14)]
        rows += [(f"u-{user}", item, when, "click") for item, when in zip(wanted, at, strict=True)]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "event_timestamp", "event_type"])
    return frame.sort_values("event_timestamp", ignore_index=True)


@pytest.fixture(scope="module")
def retrieval() -> Retrieval:
    return Retrieval.fit(clicks(), catalogue(), RetrievalConfig(l2=20.0, factors=8, als_l2=1.0, dimensions=16))


def kinds(item_ids: list[str]) -> list[str]:
    return [item_id.split("-")[0] for item_id in item_ids]


def test_the_first_candidates_are_of_the_users_taste(retrieval: Retrieval) -> None:
    found = retrieval.candidates(["garden-01", "garden-07", "garden-11"], k=60)
    assert set(kinds(found.item_ids[:20])) == {"garden"}


def test_three_clicks_in_another_category_bring_more_of_it(retrieval: Retrieval) -> None:
    before = ["garden-01", "garden-07", "garden-11"]
    after = ["sports-03", "sports-09", "sports-21", *before]
    share = [kinds(retrieval.candidates(recent, k=60).item_ids).count("sports") for recent in (before, after)]
    assert share[1] > share[0] + 5


def test_what_was_consumed_or_is_not_listed_yet_is_never_proposed(retrieval: Retrieval) -> None:
    recent = ["garden-01", "garden-07"]
    ages = np.full(len(retrieval.item_ids), 100.0, dtype=np.float32)
    ages[retrieval.codes["garden-20"]] = -1
    full = retrieval.candidates(recent, k=200)
    less = retrieval.candidates(recent, consumed={*recent, "books-01"}, age_days=ages, k=200)
    assert {"garden-01", "garden-07", "garden-20", "books-01"} <= set(full.item_ids)
    assert not {"garden-01", "garden-07", "garden-20", "books-01"} & set(less.item_ids)


def test_candidates_are_distinct_as_many_as_asked_and_carry_every_sources_score(retrieval: Retrieval) -> None:
    ages = np.linspace(0, 100, len(retrieval.item_ids)).astype(np.float32)
    found = retrieval.candidates(["books-01", "books-02"], age_days=ages, k=100)
    assert len(found) == len(set(found.item_ids)) == 100
    assert found.scores.shape == found.ranks.shape == (100, len(SOURCES))
    assert {"collaborative", "content", "trending", "fresh"} <= {found.source(i) for i in range(len(found))}
    assert (found.ranks > 0).any(axis=0).all()  # every source had its say
    proposed = found.ranks[np.arange(100), found.sources] > 0
    filled = np.isin(found.sources, [0, 3])  # these two fill up what the others leave
    assert (proposed | filled).all()


def test_a_source_ranks_its_own_candidates_by_its_own_score(retrieval: Retrieval) -> None:
    found = retrieval.candidates(["kitchen-01", "kitchen-02"], k=80)
    for source in (0, 1, 3):
        listed = np.flatnonzero(found.ranks[:, source])
        by_rank = listed[np.argsort(found.ranks[listed, source])]
        assert (np.diff(found.scores[by_rank, source]) <= 0).all(), SOURCES[source]


def test_of_a_large_catalogue_the_index_draws_the_content_list(
    retrieval: Retrieval, monkeypatch: pytest.MonkeyPatch
) -> None:
    recent, content = ["garden-01", "garden-07"], SOURCES.index("content")
    exact = retrieval.alone(recent, consumed=recent, k=40)[content]
    monkeypatch.setattr("whiteboard.recommendation.candidates.EXACT_UP_TO", 0)
    found = retrieval.alone(recent, consumed=recent, k=40)[content]
    assert len(found) == len(exact) == 40
    cosines = retrieval.content.scores(retrieval.known(recent))
    assert np.sort(cosines[found]) == pytest.approx(np.sort(cosines[exact]), abs=1e-5)


def test_a_user_never_seen_gets_what_is_trending(retrieval: Retrieval) -> None:
    trending = np.zeros(len(retrieval.item_ids), dtype=np.float32)
    trending[[retrieval.codes[item] for item in ("sports-01", "books-02")]] = 5.0, 9.0
    found = retrieval.candidates([], trending=trending, k=20)
    assert found.item_ids[:2] == ["books-02", "sports-01"]
    assert len(found) == 20
    assert retrieval.candidates(["no-such-item"], trending=trending, k=20).item_ids == found.item_ids


def test_without_a_trend_the_most_liked_stand_in(retrieval: Retrieval) -> None:
    likes = clicks().drop_duplicates(["user_id", "item_id"])["item_id"].value_counts()
    first = retrieval.candidates([], k=5).item_ids[0]
    assert likes[first] == likes.max()


def test_a_new_item_is_found_by_its_content_without_a_new_fit(retrieval: Retrieval) -> None:
    new = pd.DataFrame({"item_id": ["garden-99"], "title": ["garden thing"], "categories": ["garden|home"]})
    more = retrieval.extended(new)
    ages = np.full(len(more.item_ids), 50.0, dtype=np.float32)
    ages[more.codes["garden-99"]] = 1.0
    found = more.candidates(["garden-01", "garden-02"], age_days=ages, k=100)
    position = found.item_ids.index("garden-99")
    assert found.source(position) in ("content", "fresh")
    assert found.scores[position, SOURCES.index("content")] > 0.8
    assert "garden-99" not in retrieval.codes
    assert more.extended(new) is more


def test_fresh_items_of_the_users_taste_come_before_other_fresh_ones(retrieval: Retrieval) -> None:
    ages = np.full(len(retrieval.item_ids), 50.0, dtype=np.float32)
    ages[[retrieval.codes[f"{kind}-48"] for kind in KINDS]] = 1.0
    found = retrieval.candidates(["books-01", "books-02"], age_days=ages, k=190)
    ranks = {found.item_ids[i]: found.ranks[i, 4] for i in np.flatnonzero(found.ranks[:, 4])}
    assert set(ranks) == {f"{kind}-48" for kind in KINDS}
    assert ranks["books-48"] == 1


def test_saved_and_loaded_it_proposes_the_same(retrieval: Retrieval, tmp_path: Path) -> None:
    folder = tmp_path / "version-1" / "retrieval"
    for _ in range(2):  # the second replaces the first
        retrieval.save(folder)
    loaded = Retrieval.load(folder)
    ages = np.linspace(0, 100, len(retrieval.item_ids)).astype(np.float32)
    for recent in ([], ["garden-01", "books-07"]):
        expected, found = (each.candidates(recent, age_days=ages, k=120) for each in (retrieval, loaded))
        assert found.item_ids == expected.item_ids
        np.testing.assert_array_equal(found.scores, expected.scores)
    assert [path.name for path in folder.parent.iterdir()] == ["retrieval"]
    assert {path.suffix for path in folder.iterdir()} == {".npz", ".json", ".usearch"}


def test_files_that_are_missing_or_do_not_fit_are_refused(retrieval: Retrieval, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no candidate sources"):
        Retrieval.load(tmp_path)
    retrieval.save(tmp_path / "r")
    np.savez(tmp_path / "r" / "popularity.npz", popularity=np.zeros(3, dtype=np.float32))
    with pytest.raises(ModelError, match="200 item ids but 3 items"):
        Retrieval.load(tmp_path / "r")


def test_an_index_of_another_catalogue_is_refused(retrieval: Retrieval, tmp_path: Path) -> None:
    retrieval.save(tmp_path / "r")
    new = pd.DataFrame({"item_id": ["garden-99"], "title": ["garden thing"], "categories": ["garden|home"]})
    retrieval.extended(new).content.index.save(str(tmp_path / "r" / "content.usearch"))
    with pytest.raises(ModelError, match="holds 201 items, not 200"):
        Retrieval.load(tmp_path / "r")
    (tmp_path / "r" / "content.usearch").write_bytes(b"no index")
    with pytest.raises(ModelError, match="is no index"):
        Retrieval.load(tmp_path / "r")


def test_without_a_catalogue_the_interactions_name_the_items() -> None:
    found = Retrieval.fit(clicks(), config=RetrievalConfig(l2=20.0, factors=4)).candidates(["garden-01"], k=10)
    assert set(kinds(found.item_ids)) == {"garden"}


def test_no_interactions_are_refused() -> None:
    with pytest.raises(NotEnoughDataError, match="0 interactions"):
        Retrieval.fit(clicks()[:0], catalogue())


def test_a_catalogue_gains_the_items_that_only_interactions_name() -> None:
    both = catalogue_of(pd.DataFrame({"item_id": ["new", "garden-01"]}), catalogue())
    assert len(both) == len(catalogue()) + 1
    assert both.iloc[-1].tolist() == ["new", "", ""]


def test_a_session_ends_with_a_long_pause_or_another_user() -> None:
    users, at_s = np.array([1, 1, 1, 2]), np.array([0, 1_800, 3_601, 3_601])
    assert sessions(users, at_s).tolist() == [0, 0, 1, 2]


def test_items_of_one_session_are_neighbours_and_of_two_are_not() -> None:
    users, items = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, 1])
    at_s = np.array([0, 60, 90_000, 0, 60])
    scores = CoVisitation.fit(users, items, at_s, 4).scores([0])
    assert scores[1] > 0
    assert scores[[0, 2, 3]].tolist() == [0, 0, 0]


def test_the_newest_item_counts_most() -> None:
    users, items = np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3])
    model = CoVisitation.fit(users, items, np.zeros(4, dtype=np.int64), 4)
    assert model.scores([0, 2])[1] > model.scores([0, 2])[3]
    assert model.scores([2, 0])[1] < model.scores([2, 0])[3]


def test_the_index_finds_what_the_exact_search_finds() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(0, 400, (2_000, 5))
    items = pd.DataFrame({"title": [" ".join(f"w{word}" for word in row) for row in words], "categories": "a|b"})
    content = Content.fit(items, dimensions=32)
    recalls = []
    for code in range(0, 2_000, 40):
        exact = np.argsort(-content.scores([code]))[:50]
        recalls.append(len(set(exact) & set(content.nearest([code], 50)[0])) / 50)
    assert np.mean(recalls) > 0.95


def test_items_without_words_have_no_direction() -> None:
    content = Content.fit(pd.DataFrame({"title": ["red shoe", ""], "categories": ["shoes", ""]}))
    assert not content.vectors[1].any()
    assert len(content.nearest([1], 5)[0]) == 0
