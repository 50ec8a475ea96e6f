"""Candidate generation: from thousands of items to the ~300 that are worth ranking, from several sources.

    found = retrieval.candidates(recent=["i-00042", "i-00017"], consumed={"i-00003"}, trending=trend, age_days=ages)
    found.item_ids[0], found.source(0), found.scores[0]      # 'i-00311', 'collaborative', (sources,) float32

Sources: *collaborative* (EDLAE blended with weighted ALS), *session* (co-visitation), *content* (embeddings, by ANN),
*trending* (counts of the item windows) and *fresh* (listed lately). A request brings the user's recent items and
nothing else about the user, so a user never seen is served by what the sources need no history for. Every candidate
carries the score of every source: these are features of the ranker. All of it is read-only after the fit.
"""

import json
import os
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whiteboard.errors import ModelError, NotEnoughDataError
from whiteboard.recommendation.collaborative import (
    LinearAutoencoder,
    WeightedALS,
    blend,
    interaction_matrix,
    positives,
)
from whiteboard.recommendation.features import FRESH_DAYS
from whiteboard.recommendation.similarity import Content, CoVisitation, content_from

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SOURCES = COLLABORATIVE, SESSION, CONTENT, TRENDING, FRESH = (
    "collaborative", "session", "content", "trending", "fresh",
)  # fmt: skip
RECENT = 50  # items of a user that a request brings; older ones no longer change the list
# Content: of a catalogue up to here the nearest are taken from the exact cosines, which the ranker's feature needs in
# any case; beyond it the ANN index finds them in less time (bench/retrieval.py: they meet at 20,000 items).
EXACT_UP_TO = 20_000


@dataclass(frozen=True)
class RetrievalConfig:
    """Hyper-parameters; the models' won the validation of `backtest --movielens latest-small --split temporal-user`.

    A backtest's result names those that win on other data ("hyper_parameters", "als_share").
    `quotas` are how many candidates each source may propose; together they fill `k` of a request.
    """

    l2: float = 200.0
    dropout: float = 0.5
    factors: int = 48
    als_l2: float = 30.0
    alpha: float = 3.0
    als_share: float = 0.5
    dimensions: int = 64
    quotas: tuple[int, int, int, int, int] = (140, 60, 40, 40, 20)  # in the order of SOURCES
    seed: int = 0


@dataclass(frozen=True)
class Candidates:
    """Distinct items to rank, in the order of the sources that proposed them.

    `codes` (n,) are positions in `catalogue`, the ids of all items, `scores` (n, sources) the score of each source for
    each of them, and `sources` (n,) which source proposed it first. `ranks` (n, sources) is the place in each
    source's own list, from 1; 0 where it was not proposed by that source.
    """

    codes: Ints
    catalogue: Sequence[str]
    scores: Floats
    sources: Ints
    ranks: Ints

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def item_ids(self) -> list[str]:
        """The candidates' ids; whoever serves works with their codes."""
        return [self.catalogue[code] for code in self.codes.tolist()]

    def source(self, position: int) -> str:
        """The name of the source that proposed the candidate at `position`."""
        return SOURCES[int(self.sources[position])]


def trending_scores(short: NDArray[np.floating], long: NDArray[np.floating], *, short_share: float) -> Floats:
    """How much an item surges: events in a short window against what a long one leads to expect; (items,).

    `short_share` is the short window's length as a share of the long one. The count is divided by the root of the
    expectation + 1, the noise of such a count: among equal counts the less expected one is first, and size matters.

    >>> trending_scores(np.array([10.0, 10.0, 0.0]), np.array([70.0, 14.0, 0.0]), short_share=1 / 7).round(2).tolist()
    [3.0199999809265137, 5.769999980926514, 0.0]
    """
    return np.asarray(short / np.sqrt(long * short_share + 1), dtype=np.float32)


def fresh_scores(age_days: NDArray[np.floating], horizon_days: float = FRESH_DAYS) -> Floats:
    """1 for an item listed now, falling to 0 at the horizon; 0 for older ones and those not listed yet (negative age).

    >>> fresh_scores(np.array([0.0, 3.5, 8.0, -1.0])).tolist()
    [1.0, 0.5, 0.0, 0.0]
    """
    within = (age_days >= 0) & (age_days < horizon_days)
    return np.where(within, 1 - age_days / horizon_days, 0).astype(np.float32)


@dataclass(frozen=True)
class Retrieval:
    """All sources over one catalogue, fitted and immutable: a new one replaces it as a whole.

    `item_ids` gives the codes: the fitted items first, those added later behind them. `popularity` is log(1 + likes).
    """

    config: RetrievalConfig
    item_ids: list[str]
    autoencoder: LinearAutoencoder
    als: WeightedALS
    covisitation: CoVisitation
    content: Content
    popularity: Floats

    @classmethod
    def fit(
        cls, interactions: pd.DataFrame, items: pd.DataFrame | None = None, config: RetrievalConfig | None = None
    ) -> Self:
        """Fits every source to the positives (see collaborative.positives). Seconds for 100,000 interactions.

        Without `items` the catalogue is what the interactions name, and nothing is known of its content. Raises
        NotEnoughDataError without any interaction.
        """
        config = config or RetrievalConfig()
        if interactions.empty:
            raise NotEnoughDataError("0 interactions to fit candidate sources: simulate or ingest some first")
        catalogue = catalogue_of(interactions, items)
        liked = positives(interactions)
        codes = pd.Index(catalogue["item_id"])
        users = pd.factorize(liked["user_id"])[0]
        n = len(catalogue)
        matrix = interaction_matrix(users, codes.get_indexer(liked["item_id"]), (int(users.max()) + 1, n))
        return cls(
            config=config,
            item_ids=catalogue["item_id"].tolist(),
            autoencoder=LinearAutoencoder.fit(matrix, l2=config.l2, dropout=config.dropout),
            als=WeightedALS.fit(matrix, factors=config.factors, l2=config.als_l2, alpha=config.alpha, seed=config.seed),
            covisitation=CoVisitation.fit(users, codes.get_indexer(liked["item_id"]), seconds(liked), n),
            content=Content.fit(catalogue, dimensions=config.dimensions, seed=config.seed),
            popularity=np.log1p(np.asarray(matrix.sum(axis=0), dtype=np.float32).ravel()),
        )

    def extended(self, items: pd.DataFrame) -> "Retrieval":
        """With the items not known yet behind the others: found by content, trend and freshness, without a new fit."""
        new = items[~items["item_id"].isin(self.codes)].drop_duplicates("item_id")
        if new.empty:
            return self
        return Retrieval(
            config=self.config,
            item_ids=self.item_ids + new["item_id"].tolist(),
            autoencoder=self.autoencoder,
            als=self.als,
            covisitation=self.covisitation,
            content=self.content.extended(new),
            popularity=np.concatenate([self.popularity, np.zeros(len(new), dtype=np.float32)]),
        )

    @cached_property
    def codes(self) -> dict[str, int]:
        """The code of each item id."""
        return {item_id: code for code, item_id in enumerate(self.item_ids)}

    def known(self, item_ids: Collection[str], limit: int | None = None) -> Ints:
        """The distinct codes of the known among these ids, in their order, `limit` at most."""
        found = dict.fromkeys(self.codes[item_id] for item_id in item_ids if item_id in self.codes)
        return np.fromiter(list(found)[:limit], dtype=np.int64)

    def collaborative_scores(self, recent: Ints) -> Floats:
        """The blend's score of every item; an item added after the fit gets the lowest; (items,)."""
        fitted = recent[recent < len(self.autoencoder.weights)]
        if not len(fitted):
            return np.zeros(len(self.item_ids), dtype=np.float32)
        mixed = blend(self.autoencoder.scores(fitted), self.als.scores(fitted), self.config.als_share)
        return self._padded(mixed, float(mixed.min()))

    def session_scores(self, recent: Ints) -> Floats:
        """The co-visitation score of every item, 0 for one never seen beside these; (items,)."""
        fitted = recent[recent < len(self.covisitation.neighbours)]
        return self._padded(self.covisitation.scores(fitted), 0.0)

    def user_scores(self, liked: Ints) -> Floats:
        """The scores of the sources that know the user, collaborative, session and content, of every item; (3, items).

        `liked` are codes, newest first (see `known`).
        """
        scores = np.zeros((3, len(self.item_ids)), dtype=np.float32)
        if len(liked):
            scores[0], scores[1] = self.collaborative_scores(liked), self.session_scores(liked)
            scores[2] = self.content.scores(liked)
        return scores

    def candidates(
        self,
        recent: Sequence[str],
        *,
        consumed: Collection[str] = (),
        trending: Floats | None = None,
        age_days: Floats | None = None,
        k: int = 300,
    ) -> Candidates:
        """Up to `k` candidates for who liked these items, newest first; unknown ids are passed over.

        `consumed` is never proposed, nor is an item of negative age. `trending` (see trending_scores) and `age_days`
        are arrays by code; without a trend the popularity in the training data stands in, without ages nothing is
        fresh. What a source leaves of its quota goes to the collaborative source, then to trending.
        """
        liked, scores, open_ = self._asked(recent, consumed, trending, age_days)
        total = sum(self.config.quotas)
        quotas = [max(1, round(k * quota / total)) for quota in self.config.quotas]
        lists = self._lists(scores, liked, open_, [k, *quotas[1:]])
        more, lists[0] = lists[0], lists[0][: quotas[0]]
        lists.append(more)
        codes, first = _distinct(lists)
        if len(codes) < k:
            lists.append(_best(scores[3], open_, k))
            codes, first = _distinct(lists)
        codes, first = codes[:k], first[:k]
        owner = np.repeat([0, 1, 2, 3, 4, 0, 3][: len(lists)], [len(part) for part in lists])
        return Candidates(
            codes=codes,
            catalogue=self.item_ids,
            scores=scores[:, codes].T,
            sources=owner[first],
            ranks=_ranks(lists[: len(SOURCES)], codes, len(self.item_ids)),
        )

    def alone(
        self,
        recent: Sequence[str],
        *,
        consumed: Collection[str] = (),
        trending: Floats | None = None,
        age_days: Floats | None = None,
        k: int = 300,
    ) -> list[Ints]:
        """The codes that each of SOURCES would propose, best first, if all `k` places were its own."""
        liked, scores, open_ = self._asked(recent, consumed, trending, age_days)
        return self._lists(scores, liked, open_, [k] * len(SOURCES))

    def _asked(
        self, recent: Sequence[str], consumed: Collection[str], trending: Floats | None, age_days: Floats | None
    ) -> tuple[Ints, Floats, NDArray[np.bool_]]:
        """What a request comes down to: codes of what was liked, every source's scores, and what may be proposed."""
        liked = self.known(recent, RECENT)
        open_ = np.ones(len(self.item_ids), dtype=bool)
        open_[self.known(consumed)] = False
        if age_days is not None:
            open_ &= age_days >= 0
        return liked, self._scores(liked, trending, age_days), open_

    def _scores(self, liked: Ints, trending: Floats | None, age_days: Floats | None) -> Floats:
        scores = np.zeros((len(SOURCES), len(self.item_ids)), dtype=np.float32)
        scores[:3] = self.user_scores(liked)
        scores[3] = self.popularity if trending is None else trending
        if age_days is not None:  # fresh and to the user's taste
            scores[4] = fresh_scores(age_days) * (1 + scores[2])
        return scores

    def _lists(self, scores: Floats, liked: Ints, open_: NDArray[np.bool_], quotas: Sequence[int]) -> list[Ints]:
        """The codes that each source proposes, best first, at most its quota."""
        lists = [_best(row, (row > 0) & open_, quota) for row, quota in zip(scores, quotas, strict=True)]
        lists[0] = _best(scores[0], open_, quotas[0]) if len(liked) else lists[0][:0]
        if len(self.item_ids) > EXACT_UP_TO:
            near = self.content.nearest(liked, quotas[2] + len(liked))[0]
            lists[2] = near[open_[near]][: quotas[2]]
        return lists

    def _padded(self, values: Floats, fill: float) -> Floats:
        missing = len(self.item_ids) - len(values)
        return np.concatenate([values, np.full(missing, fill, dtype=np.float32)]) if missing else values

    def save(self, folder: Path) -> None:
        """Writes npz and JSON files, and the ANN index, into `folder`, as a whole: a reader sees all old or all new."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        for name in _PARTS:
            np.savez(fresh / f"{name}.npz", **getattr(self, name).arrays())
        self.content.index.save(str(fresh / _INDEX))
        np.savez(fresh / "popularity.npz", popularity=self.popularity)
        about = {"config": asdict(self.config), "item_ids": self.item_ids}
        (fresh / "retrieval.json").write_text(json.dumps(about))
        if folder.exists():
            old = Path(mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
            os.replace(folder, old)
            os.replace(fresh, folder)
            shutil.rmtree(old)
        else:
            os.replace(fresh, folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote. Raises ModelError if files are missing or don't fit together."""
        try:
            about = json.loads((folder / "retrieval.json").read_text())
            parts = {name: _arrays(folder / f"{name}.npz") for name in (*_PARTS, "popularity")}
        except (OSError, ValueError) as error:
            raise ModelError(f"no candidate sources in {folder} ({error}): fit and save them again") from error
        config = about["config"] | {"quotas": tuple(about["config"]["quotas"])}
        als, popularity = parts["als"], parts["popularity"]["popularity"]
        if len(popularity) != len(about["item_ids"]):
            raise ModelError(
                f"{folder}: {len(about['item_ids'])} item ids but {len(popularity)} items: fit and save them again"
            )
        return cls(
            config=RetrievalConfig(**config),
            item_ids=about["item_ids"],
            autoencoder=LinearAutoencoder(**parts["autoencoder"]),
            als=WeightedALS(als["factors"], als["gram"], float(als["alpha"])),
            covisitation=CoVisitation(**parts["covisitation"]),
            content=content_from(parts["content"], folder / _INDEX),
            popularity=popularity,
        )


_PARTS = ("autoencoder", "als", "covisitation", "content")
_INDEX = "content.usearch"


def catalogue_of(interactions: pd.DataFrame, items: pd.DataFrame | None) -> pd.DataFrame:
    """item_id, title and categories of every item: the catalogue's, then what only the interactions name, untitled."""
    columns = ["item_id", "title", "categories"]
    listed = pd.DataFrame(columns=columns) if items is None else items[columns].drop_duplicates("item_id", keep="last")
    others = sorted(set(interactions["item_id"]) - set(listed["item_id"]))
    unlisted = pd.DataFrame({"item_id": others, "title": "", "categories": ""})
    return pd.concat([listed, unlisted], ignore_index=True) if len(unlisted) else listed.reset_index(drop=True)


def seconds(interactions: pd.DataFrame) -> Ints:
    """The event times as whole seconds since 1970."""
    return interactions["event_timestamp"].astype("datetime64[s, UTC]").to_numpy(dtype="datetime64[s]").astype(np.int64)


def _distinct(lists: Sequence[Ints]) -> tuple[Ints, Ints]:
    """The distinct codes of the lists, in the order of their first place; and that place, counted through the lists."""
    codes, first = np.unique(np.concatenate(lists), return_index=True)
    order = np.argsort(first)
    return codes[order], first[order]


def _best(scores: Floats, allowed: NDArray[np.bool_], k: int) -> Ints:
    """The codes of the k best allowed items, best first; among equals the lower code."""
    codes = np.flatnonzero(allowed)
    values = -scores[codes]
    if len(codes) > k:
        part = np.argpartition(values, k - 1)[:k]
        codes, values = codes[part], values[part]
    return np.asarray(codes[np.lexsort((codes, values))], dtype=np.int64)


def _ranks(lists: Sequence[Ints], codes: Ints, n_items: int) -> Ints:
    ranks = np.zeros((len(codes), len(lists)), dtype=np.int64)
    place = np.zeros(n_items, dtype=np.int64)
    for column, part in enumerate(lists):
        place[part] = np.arange(1, len(part) + 1)
        ranks[:, column] = place[codes]
        place[part] = 0
    return ranks


def _arrays(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
