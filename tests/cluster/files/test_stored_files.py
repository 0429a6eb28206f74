"""Lists of stored outputs."""

from __future__ import annotations

from pathlib import Path

from iris.cluster.controller.outputs.stored_files import list_stored
from iris.cluster.files.confined_tree import ConfinedTree
from iris.cluster.files.listing import list_page
from iris.cluster.files.output_pack import OutputPack, StoredPack
from iris.rpc import cluster_pb2 as pb


def test_page_token_from_a_list_of_files_on_the_worker_is_valid_for_the_stored_outputs(tmp_path: Path) -> None:
    for directory in ("out/a", "out/b"):
        (tmp_path / directory).mkdir(parents=True)
        for number in range(700):
            (tmp_path / directory / str(number)).touch()
    (tmp_path / "out/a.b").touch()
    with ConfinedTree(tmp_path) as tree:
        first, token = list_page(tree, "out", recursive=True, page_token="")
        rest, end = list_page(tree, "out", recursive=True, page_token=token)
        pack = OutputPack((tree, ["out"]))
        (tmp_path / "pack").write_bytes(pack.read(0, pack.size))
    assert (bool(token), end) == (True, "")
    stored = StoredPack(tmp_path / "pack", pack.index_bytes)
    begin = list_stored(stored, pb.ListTaskFilesRequest(path="out", recursive=True))
    assert (list(begin.files), begin.next_page_token) == (first, token)
    continued = list_stored(stored, pb.ListTaskFilesRequest(path="out", recursive=True, page_token=token))
    assert (list(continued.files), continued.next_page_token) == (rest, "")
