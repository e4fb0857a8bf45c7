"""The Merkle tree: RFC 6962's, at every size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.ledger.log import tile_name
from shipworthy.ledger.tree import (
    EMPTY_ROOT,
    TILE_WIDTH,
    Frontier,
    frontier_of,
    inclusion_path,
    leaf_hash,
    node_hash,
    root_from_path,
    root_of,
)

# the test vectors of certificate-transparency
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
FIRST_PATH_OF_EIGHT = [
    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
]


def by_definition(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word by word."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(by_definition(leaves[:split]), by_definition(leaves[split:]))


class Tiles:
    """A growing tree with its tiles in memory."""

    def __init__(self, size: int) -> None:
        self.frontier = Frontier()
        self.leaves = [leaf_hash(b"%d" % number) for number in range(size)]
        self.levels: dict[int, list[bytes]] = {}
        for leaf in self.leaves:
            for level, place, value in self.frontier.push(leaf):
                assert len(self.levels.setdefault(level, [])) == place
                self.levels[level].append(value)

    def __call__(self, level: int, index: int) -> list[bytes]:
        return self.levels[level][index * TILE_WIDTH : (index + 1) * TILE_WIDTH]


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_the_published_vectors(size: int) -> None:
    leaves = [leaf_hash(leaf) for leaf in LEAVES[:size]]
    frontier = Frontier()
    for leaf in leaves:
        frontier.push(leaf)
    assert frontier.root().hex() == root_of(leaves).hex() == ROOTS[size - 1]


def test_a_path_is_that_of_the_published_vector() -> None:
    leaves = [leaf_hash(leaf) for leaf in LEAVES]
    assert [value.hex() for value in inclusion_path(0, 8, lambda *_: leaves)] == FIRST_PATH_OF_EIGHT


def test_an_empty_tree_has_the_hash_of_nothing() -> None:
    assert Frontier().root() == root_of([]) == EMPTY_ROOT


@given(st.integers(1, 700))
def test_growing_gives_the_root_by_definition(size: int) -> None:
    tiles = Tiles(size)
    assert tiles.frontier.root() == by_definition(tiles.leaves) == root_of(tiles.leaves)


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537, 66_000])
def test_a_frontier_read_from_tiles_is_the_one_that_grew(size: int) -> None:
    tiles = Tiles(size)
    assert frontier_of(size, tiles) == tiles.frontier


@given(st.data())
def test_a_path_proves_its_leaf_and_nothing_else(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 1500))
    index = data.draw(st.integers(0, size - 1))
    tiles = Tiles(size)
    root, leaf = tiles.frontier.root(), tiles.leaves[index]
    path = inclusion_path(index, size, tiles)
    assert root_from_path(index, size, leaf, path) == root
    assert len(path) <= 11
    other = data.draw(st.integers(0, size - 1).filter(lambda place: place != index) if size > 1 else st.just(-1))
    assert root_from_path(other, size, leaf, path) != root
    assert root_from_path(index, size, node_hash(leaf, leaf), path) != root
    assert root_from_path(index, size, leaf, [*path, leaf]) is None
    if path:
        assert root_from_path(index, size, leaf, path[:-1]) is None
    assert root_from_path(index, index, leaf, path) is None


@pytest.mark.parametrize("index", [-1, 5])
def test_a_path_of_a_missing_leaf_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="5 leaves"):
        inclusion_path(index, 5, Tiles(5))


def test_tiles_are_numbered_so_that_no_directory_grows_without_end() -> None:
    assert [tile_name(index) for index in (0, 999, 1000, 1_234_067)] == ["000", "999", "x001/000", "x001/x234/067"]
