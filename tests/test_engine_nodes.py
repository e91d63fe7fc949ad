"""The nodes of one engine find each other, and each engine of a node has its own GPUs."""

from __future__ import annotations

import threading
import time

import pytest
from small_study import free_port

from jobs.core.causes import Cause, cause_of
from jobs.core.place import Place
from jobs.engines.load import follow, follows
from jobs.engines.nodes import Follower, Front, Node, own_gpus
from jobs.runtime.signals import Interrupted


@pytest.fixture
def nodes() -> list[Node]:
    port = free_port()
    return [Node(rank, 2, "127.0.0.1", port) for rank in range(2)]


def test_the_other_node_is_given_the_port_and_told_of_the_end(nodes: list[Node]) -> None:
    asked = list[int]()

    def begin() -> None:
        while len(asked) < 2:  # the second node has come first
            time.sleep(0.01)
        fronts.append(Front(nodes[0]))

    fronts = list[Front]()
    first = threading.Thread(target=begin)
    first.start()

    def waits() -> bool:
        asked.append(1)
        return True

    with Follower(nodes[1], waits) as follower:
        first.join()
        assert follower.joined
        assert follower.port == fronts[0].port
        assert nodes[1].arguments(follower.port) == {
            "nnodes": 2, "node_rank": 1, "master_addr": "127.0.0.1", "master_port": fronts[0].port,
            "distributed_executor_backend": "mp",
        }  # fmt: skip
        assert not follower.over()
        fronts[0].close()
        assert follower.over()


def test_a_first_node_that_dies_is_a_failure_of_the_network(nodes: list[Node]) -> None:
    front = Front(nodes[0])
    with Follower(nodes[1], lambda: True) as follower:
        while not front._joined:
            time.sleep(0.01)
        front._joined[0].close()  # as the kernel does
        with pytest.raises(ConnectionError) as error:
            follower.over()
    assert cause_of(error.value) == Cause.NETWORK
    front.close()


def test_without_an_engine_the_other_nodes_end_with_the_unit(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in Place("7", rank=1, size=2, nodes=2).variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(nodes[0].port))
    left = [True, False]
    follow("nowhere", None, {"nodes": 2}, lambda: left.pop(0), lambda: None)
    assert not left

    def asked_to_stop() -> bool:
        raise Interrupted("its time limit is near")

    with pytest.raises(Interrupted):
        Follower(nodes[1], asked_to_stop)


def test_ranks_are_taken_out_of_the_environment() -> None:
    place = Place("7", rank=1, size=2, nodes=2, first="10.0.0.1").variables
    environ = {**place, "HOME": "/root"}
    assert Node.take(2, 4, environ) == Node(1, 2, "10.0.0.1", int(place["MASTER_PORT"]))
    assert environ == {"HOME": "/root"}
    assert Node.take(1, 4, environ) == Node()
    assert Node().arguments(1) == {}


def test_engines_side_by_side_have_their_own_gpus() -> None:
    found = []
    for rank in range(3):
        environ = {**Place("7", rank, rank, 3).variables, "CUDA_VISIBLE_DEVICES": "4,5,0,1,7,6"}
        assert Node.take(1, 2, environ) == Node()
        found.append(environ)
    assert [e["CUDA_VISIBLE_DEVICES"] for e in found] == ["4,5", "0,1", "7,6"]
    cores = dict(Place("7", 1, 1, 3).variables)
    Node.take(1, 0, cores)
    assert cores == {}


@pytest.mark.parametrize(
    ("visible", "rank", "expected"),
    [(None, 0, "0,1"), (None, 1, "2,3"), ("GPU-a,GPU-b", 1, "GPU-a,GPU-b"), ("0,1,2", 1, None)],
)
def test_gpus_that_slurm_has_split_stay_and_others_are_counted(
    visible: str | None, rank: int, expected: str | None
) -> None:
    if expected is None:
        with pytest.raises(ValueError, match=r"2 engines with 2 GPUs each need 4, and CUDA_VIS.* is 0,1,2"):
            own_gpus(visible, rank, 2, 2)
    else:
        assert own_gpus(visible, rank, 2, 2) == expected


def test_only_other_nodes_follow() -> None:
    assert [follows(rank, {"nodes": 2}) for rank in range(2)] == [False, True]
    assert not follows(1, {"nodes": 1})
    assert not follows(1, {})
