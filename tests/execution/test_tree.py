"""The fixed order of a sum over chunks."""

import random

import pytest

from s2l_ray.execution.tree import Tree, add


def joined(left, right):
    return "(" + "".join(sorted([left, right])) + ")"


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        ("a", "a"),
        ("ab", "(ab)"),
        ("abc", "((ab)c)"),
        ("abcde", "(((ab)(cd))e)"),
        ("abcdef", "(((ab)(cd))(ef))"),
    ],
)
def test_every_order_and_every_division_gives_the_same_tree(leaves, expected):
    for seed in range(20):
        draw = random.Random(seed)
        numbers = list(range(len(leaves)))
        draw.shuffle(numbers)
        cut = draw.randint(0, len(leaves))
        whole = Tree(len(leaves), joined)
        for some in (numbers[:cut], numbers[cut:]):
            part = Tree(len(leaves), joined)
            for number in some:
                part.add(0, number, leaves[number])
            for node in part.nodes():
                whole.add(*node)
        assert whole.total() == expected


def test_few_nodes_are_left_of_neighbours():
    tree = Tree(1000, lambda left, right: left + right)
    for number in range(300, 700):
        tree.add(0, number, 1)
    assert sum(value for _, _, value in tree.nodes()) == 400
    assert len(tree.nodes()) < 12


def test_add():
    assert add((1, 2.5), (3, 0.5)) == (4, 3.0)
