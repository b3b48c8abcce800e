"""Recorded operations, with fewer of them: the same numbers from less work."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Interpreter, Node

FEW = 4096  # numbers at most of a constant that a recording keeps
VIEWS = tuple(
    getattr(torch.ops.aten, name).default for name in ("detach", "view", "_unsafe_view", "expand")
)
# The same functions, but not by way of torch.ops, which takes longer than small tensors do.
DIRECT: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.add.Tensor: torch.add,
    torch.ops.aten.mul.Tensor: torch.mul,
    torch.ops.aten.mul.Scalar: torch.mul,
    torch.ops.aten.bmm.default: torch.bmm,
    torch.ops.aten.sum.dim_IntList: torch.sum,
    torch.ops.aten.relu.default: torch.relu,
    torch.ops.aten.transpose.int: torch.transpose,
    torch.ops.aten.view.default: Tensor.view,
    torch.ops.aten.expand.default: Tensor.expand,
}


def simplify(graph: GraphModule, inputs: list[Tensor]) -> None:
    """Leave out of a recording what changes nothing but, perhaps, the sign of a zero.

    That is, views of the shape that they view, sums with zeros and products with 1, whatever has
    been computed before, and what is the same at every run. Autograd and vmap leave about half of a
    small network's operations so.
    """
    aten, layout = torch.ops.aten, {}
    constants: dict[Node, Tensor] = {}
    alike = aten.ones_like.default, aten.zeros_like.default

    class Layouts(Interpreter):
        def run_node(self, n: Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                layout[n] = value.shape, value.stride(), value.dtype
                of_constants = n.all_input_nodes and constants.keys() >= set(n.all_input_nodes)
                if (n.target in alike or (of_constants and not draws(n))) and value.numel() < FEW:
                    constants[n] = value
            return value

    Layouts(graph).run(*inputs)
    nodes = [node for node in graph.graph.nodes if isinstance(node.target, OpOverload)]
    if any(node.target._schema.is_mutable for node in nodes):
        return  # then the order of the operations matters
    seen: dict[Hashable, Node] = {}
    for node in nodes:
        op = node.target
        first: Any = node.args[0] if node.args else None  # what it views, if it is a view
        if draws(node):
            continue
        key = op, str(node.args), str(node.kwargs)
        same = seen.get(key)
        if same is not None:
            pass
        elif op in VIEWS and layout[first] == layout[node]:
            same = first
        elif op is aten.transpose.int and first.target is op and first.args[1:] == node.args[1:]:
            same = first.args[0]
        elif op is aten.mul.Scalar and node.args[1] == 1 and layout[first] == layout[node]:
            same = first
        elif op is aten.add.Tensor and first.target is aten.zeros_like.default:
            same = node.args[1] if layout[node.args[1]] == layout[node] else None
        if same is None:
            seen[key] = node
        else:
            node.replace_all_uses_with(same)
            graph.graph.erase_node(node)
    for node, value in constants.items():
        if node.users.keys() - constants.keys():
            graph.register_buffer(node.name, value)
            with graph.graph.inserting_before(node):
                node.replace_all_uses_with(graph.graph.get_attr(node.name))
    graph.graph.eliminate_dead_code()
    graph.recompile()


def draws(node: Node) -> bool:
    """Whether a node draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def turn_products(graph: GraphModule) -> None:
    """(A B)^T = B^T A^T: compute products, and sums of them, the way round that is asked for.

    Autograd leaves the gradient of a layer's weights transposed. Compiled code that adds tensors,
    some read along rows and some along columns, is not vectorised. A product in the other order may
    round otherwise, so recordings that are not compiled stay as they are.
    """
    aten = torch.ops.aten

    def transpose(of: Node) -> Node:
        node = graph.graph.call_function(aten.transpose.int, (of, 1, 2))
        node.meta["val"] = of.meta["val"].mT
        return node

    def is_transpose(node: Node) -> bool:
        return node.target is aten.transpose.int and node.args[1:] in ((1, 2), (-2, -1))

    def turns(node: Any) -> bool:
        """Whether the transpose of these matrices, `[T, N, M]`, is to be had without one."""
        if not isinstance(node, Node) or "val" not in node.meta or node.meta["val"].ndim != 3:
            return False
        if is_transpose(node):
            return True
        summed = node.target is aten.add.Tensor and not node.kwargs and all(map(turns, node.args))
        return len(node.users) == 1 and (summed or node.target is aten.bmm.default)

    def turned(node: Any) -> Any:
        if is_transpose(node):
            return node.args[0]
        if node.target is aten.bmm.default:
            parts = [transpose(factor) for factor in reversed(node.args)]
        else:
            parts = [turned(term) for term in node.args]
        new = graph.graph.call_function(node.target, tuple(parts))
        new.meta["val"] = node.meta["val"].mT
        return new

    def turn_one() -> bool:
        for node in graph.graph.nodes:
            if is_transpose(node) and turns(node.args[0]):
                with graph.graph.inserting_before(node):
                    node.replace_all_uses_with(turned(node.args[0]))
                return graph.graph.eliminate_dead_code()  # what is dead would count as a use
        return False

    while turn_one():
        pass
    graph.recompile()
