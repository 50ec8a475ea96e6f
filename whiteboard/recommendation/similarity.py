"""Items that are like items: seen in the same session (co-visitation), or described alike (content embeddings).

    CoVisitation.fit(users, items, at_s, n_items).scores([17, 4])     # the user's recent items, newest first
    Content.fit(catalogue).nearest([17, 4], k=100)                  # (codes, similarities), by the ANN index

Both are sources of candidates.py. A new item can be embedded without a new fit. The index is usearch's HNSW.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from whiteboard.errors import ModelError

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from usearch.index import Index

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SESSION_GAP_S = 30 * 60  # the usual limit of inactivity after which a visit counts as a new one
_TOKEN = r"(?u)\b\w+\b"


def sessions(users: Ints, at_s: Ints, gap_s: int = SESSION_GAP_S) -> Ints:
    """The session code of every row: a user's rows until a pause of more than `gap_s` seconds; in any order.

    >>> sessions(np.array([1, 1, 2, 1]), np.array([0, 60, 60, 9_000])).tolist()
    [0, 0, 2, 1]
    """
    order = np.lexsort((at_s, users))
    begins = np.ones(len(users), dtype=bool)
    begins[1:] = (np.diff(users[order]) != 0) | (np.diff(at_s[order]) > gap_s)
    codes = np.empty(len(users), dtype=np.int64)
    codes[order] = np.cumsum(begins) - 1
    return codes


@dataclass(frozen=True)
class CoVisitation:
    """What else is looked at in the same session: each item's strongest neighbours, by cosine of their sessions.

    `neighbours` is (items, width) codes, `similarities` the same in float32, 0 where an item has fewer neighbours.
    The count of common sessions is divided by √((n_i + shrinkage)(n_j + shrinkage)), so that one lucky session is no
    proof, and a session of m items weighs 1 / log2(1 + m): a long one says less about each pair.
    """

    neighbours: Ints
    similarities: Floats

    @classmethod
    def fit(
        cls, users: Ints, items: Ints, at_s: Ints, n_items: int, *, shrinkage: float = 5.0, width: int = 100
    ) -> Self:
        """From parallel arrays of codes and seconds, one entry an interaction; items without any keep zeros."""
        visit = sessions(users, at_s)
        shape = (int(visit.max(initial=-1)) + 1, n_items)
        matrix = sparse.csr_matrix((np.ones(len(items), dtype=np.float32), (visit, items)), shape=shape)
        matrix.data[:] = 1
        size = np.diff(matrix.indptr)
        weighted = sparse.diags_array(1 / np.log2(1 + np.maximum(size, 1))) @ matrix
        common = sparse.csr_matrix(matrix.T @ weighted)
        scale = 1 / np.sqrt(common.diagonal() + shrinkage)
        return cls(
            *_strongest(sparse.csr_matrix(sparse.diags_array(scale) @ common @ sparse.diags_array(scale)), width)
        )

    def scores(self, recent: Sequence[int] | Ints, decay: float = 0.9) -> Floats:
        """The score of every item for these recent ones, newest first; the n-th counts decayⁿ as much. (items,)."""
        codes = np.asarray(recent, dtype=np.int64)
        weight = (decay ** np.arange(len(codes)))[:, None] * self.similarities[codes]
        total = np.bincount(self.neighbours[codes].ravel(), weights=weight.ravel(), minlength=len(self.neighbours))
        return total.astype(np.float32)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What to save."""
        return {"neighbours": self.neighbours, "similarities": self.similarities}


def _strongest(similarity: sparse.csr_matrix, width: int) -> tuple[Ints, Floats]:
    items = similarity.shape[0]
    neighbours = np.zeros((items, width), dtype=np.int64)
    similarities = np.zeros((items, width), dtype=np.float32)
    for item in range(items):
        row = slice(similarity.indptr[item], similarity.indptr[item + 1])
        codes, values = similarity.indices[row], similarity.data[row]
        others = codes != item
        codes, values = codes[others], values[others]
        best = np.argsort(-values, kind="stable")[:width]
        neighbours[item, : len(best)], similarities[item, : len(best)] = codes[best], values[best]
    return neighbours, similarities


def texts(items: pd.DataFrame) -> list[str]:
    """What an item is described by: its title, and its categories as whole words, said three times.

    A category outweighs a word of the title, which is often a name that no other item has.
    """
    categories = items["categories"].fillna("").str.replace(r"[^\w|]+", "_", regex=True).str.replace("|", " ")
    return [f"{title} {(kinds + ' ') * 3}" for title, kinds in zip(items["title"].fillna(""), categories, strict=True)]


@dataclass(frozen=True)
class Content:
    """Embeddings of what items say about themselves: TF-IDF over title and categories, then a truncated SVD.

    `vectors` is (items, dimensions) float32 of length 1 (or 0, for an item without a known word); `vocabulary`, `idf`
    and `components` (words × dimensions) embed further items. The index is built when first asked.
    """

    vectors: Floats
    vocabulary: list[str]
    idf: NDArray[np.float64]
    components: Floats

    @classmethod
    def fit(cls, items: pd.DataFrame, *, dimensions: int = 64, seed: int = 0) -> Self:
        """From the columns title and categories; code n is row n. Fewer words than `dimensions` give fewer."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.utils.extmath import randomized_svd

        described = texts(items)
        if not any(text.strip() for text in described):  # nothing is known of any item: all vectors are zero
            described = [*described[:-1], "unknown"] if described else described
        words = TfidfVectorizer(token_pattern=_TOKEN, sublinear_tf=True)
        matrix = words.fit_transform(described)
        rank = min(dimensions, *matrix.shape)
        components = randomized_svd(matrix, rank, random_state=seed)[2].T.astype(np.float32)
        vectors = _unit(matrix @ components)
        return cls(vectors, words.get_feature_names_out().tolist(), words.idf_, components)

    def embed(self, items: pd.DataFrame) -> Floats:
        """The vectors of other items, by the words known; (items, dimensions)."""
        return _unit(self._words.transform(texts(items)) @ self.components)

    def extended(self, items: pd.DataFrame) -> "Content":
        """With further items behind the known ones, in vectors and index, without a new fit."""
        new = self.embed(items)
        graph = self.index.copy()
        graph.add(np.arange(len(self.vectors), len(self.vectors) + len(new)), new, threads=1)
        more = Content(np.vstack([self.vectors, new]), self.vocabulary, self.idf, self.components)
        return more._with(graph)

    def profile(self, recent: Sequence[int] | Ints, decay: float = 0.9) -> Floats:
        """The direction of these recent items, newest first; (dimensions,), zeros when none is given."""
        codes = np.asarray(recent, dtype=np.int64)
        weight = (decay ** np.arange(len(codes))).astype(np.float32)
        return np.asarray(_unit((weight @ self.vectors[codes])[None])[0])

    def scores(self, recent: Sequence[int] | Ints) -> Floats:
        """The exact cosine of every item with the recent ones; (items,)."""
        return np.asarray(self.vectors @ self.profile(recent))

    def nearest(self, recent: Sequence[int] | Ints, k: int) -> tuple[Ints, Floats]:
        """The k items most alike by the ANN index, with their cosines, best first; nothing when nothing is known."""
        profile = self.profile(recent)
        if not profile.any():
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        found = self.index.search(profile, min(k, len(self.vectors)))
        return np.asarray(found.keys, dtype=np.int64), np.asarray(1 - found.distances, dtype=np.float32)

    @cached_property
    def index(self) -> "Index":
        """usearch's HNSW graph over the vectors (Malkov, Yashunin 2018), built when first asked for, or loaded."""
        graph = _empty_index(self.vectors.shape[1])
        graph.add(np.arange(len(self.vectors)), self.vectors, threads=1)  # one thread: the same graph every time
        return graph

    def _with(self, graph: "Index") -> "Content":
        self.__dict__["index"] = graph  # where cached_property looks first
        return self

    @cached_property
    def _words(self) -> "TfidfVectorizer":
        from sklearn.feature_extraction.text import TfidfVectorizer

        words = TfidfVectorizer(token_pattern=_TOKEN, sublinear_tf=True, vocabulary=self.vocabulary)
        words.idf_ = self.idf
        return words

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What to save."""
        words = np.array(self.vocabulary, dtype=np.str_)
        return {"vectors": self.vectors, "vocabulary": words, "idf": self.idf, "components": self.components}


def content_from(arrays: dict[str, NDArray[Any]], index_file: Path) -> Content:
    """The reverse of `Content.arrays`, with the index that was built offline. Raises ModelError if they don't fit."""
    content = Content(arrays["vectors"], arrays["vocabulary"].tolist(), arrays["idf"], arrays["components"])
    graph = _empty_index(content.vectors.shape[1])
    try:
        graph.load(str(index_file))
    except Exception as error:  # usearch raises what its C++ throws
        raise ModelError(f"{index_file} is no index ({error}): fit and save the candidate sources again") from error
    if len(graph) != len(content.vectors):
        raise ModelError(
            f"{index_file} holds {len(graph)} items, not {len(content.vectors)}: fit and save the sources again"
        )
    return content._with(graph)


def _empty_index(dimensions: int) -> "Index":
    from usearch.index import Index

    # Looking at 256 nodes gave a recall of .99 at 5,000 items, .96 to .97 at 50,000 (bench/retrieval.py).
    return Index(ndim=dimensions, metric="cos", dtype="f32", connectivity=16, expansion_add=128, expansion_search=256)


def _unit(vectors: Any) -> Floats:
    rows = np.asarray(vectors, dtype=np.float32)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1), dtype=np.float32)
