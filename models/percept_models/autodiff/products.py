"""Rules of matrix products, Einsum and DFT. Operands are transposed by flags or attributes where that is possible."""

from percept_models.autodiff.context import Context, Cotangents, reshape_like, unbroadcast


def gemm(c: Context, g: str) -> Cotangents:
    """`Y = p A' B' + q C, A' and B' being A and B, transposed by flags`: dA' = p g B'^T, dB' = p A'^T g, dC = q g.

    The new Gemm transposes by its flags; where A or B is transposed, the operands are swapped.
    """
    a, b = bool(c.attribute("transA", 0)), bool(c.attribute("transB", 0))
    p, q = c.attribute("alpha", 1.0), c.attribute("beta", 1.0)

    def product(left: str, right: str, left_flag: bool, right_flag: bool) -> str:
        return c.op.Gemm(left, right, transA=int(left_flag), transB=int(right_flag), alpha=p)

    da = product(c.x(1), g, b, True) if a else product(g, c.x(1), False, not b)
    db = product(g, c.x(0), True, a) if b else product(c.x(0), g, not a, False)
    if 2 not in c.needs_grad:
        return [da, db]
    return [da, db, unbroadcast(c, g if q == 1 else c.op.Mul(g, c.constant(q)), c.x(2))]


def matmul(c: Context, g: str) -> Cotangents:
    """`Y = A B over the last two axes`: dA = g B^T, dB = A^T g.

    Where B has two axes, dA is one Gemm over all rows of g, which transposes B by its flag.
    """
    a, b = c.x(0), c.x(1)
    ranks = [len(c.shape(name)) for name in (a, b)]
    if min(ranks) < 2:
        raise c.unsupported("an operand is a vector")
    cotangents: list[str | None] = [None, None]
    if 0 in c.needs_grad and ranks[1] == 2:
        rows = c.op.Reshape(g, c.ints(-1, *c.sizes(b, [1])))
        cotangents[0] = reshape_like(c, c.op.Gemm(rows, b, transB=1), a)
    elif 0 in c.needs_grad:
        cotangents[0] = unbroadcast(c, c.op.MatMul(g, _transpose_matrix(c, b)), a, kept=2)
    if 1 in c.needs_grad:
        cotangents[1] = unbroadcast(c, c.op.MatMul(_transpose_matrix(c, a), g), b, kept=2)
    return cotangents


def _transpose_matrix(c: Context, name: str) -> str:
    axes = list(range(len(c.shape(name))))
    return c.op.Transpose(name, perm=[*axes[:-2], axes[-1], axes[-2]])


def einsum(c: Context, g: str) -> Cotangents:
    """`Y = sum of products of the operands over the letters that Y lacks`: dA = the sum of g times the other operands

    over the letters that A lacks, repeated along the letters that only A has. Every operand must have each letter once
    and, for the letters that it shares with others, their sizes; an ellipsis has no rule.
    """
    operands, output = _read_equation(c)
    sizes = [dict(zip(term, c.shape(c.x(i)), strict=True)) for i, term in enumerate(operands)]
    wide = {letter for known in sizes for letter, size in known.items() if size != 1}
    if any(known[letter] == 1 for known in sizes for letter in wide.intersection(known)):
        raise c.unsupported("an operand is repeated along an axis")
    cotangents: list[str | None] = []
    for i, term in enumerate(operands):
        if i not in c.needs_grad:
            cotangents.append(None)
            continue
        others = [k for k in range(len(operands)) if k != i]
        known = set(output).union(*(operands[k] for k in others))
        kept = "".join(letter for letter in term if letter in known)
        equation = f"{','.join([output, *(operands[k] for k in others)])}->{kept}"
        da = c.op.Einsum(g, *(c.x(k) for k in others), equation=equation)
        cotangents.append(_repeat_along(c, da, c.x(i), [axis for axis, n in enumerate(term) if n not in known]))
    return cotangents


def _read_equation(c: Context) -> tuple[list[str], str]:
    """Return the letters of each operand and of the output of an Einsum."""
    equation = c.attribute("equation", "").replace(" ", "")
    left, arrow, output = equation.partition("->")
    if not arrow:
        output = "".join(sorted(letter for letter in set(left) - {","} if left.count(letter) == 1))
    operands = left.split(",")
    if "." in equation or any(len(set(term)) < len(term) for term in [*operands, output]):
        raise c.unsupported(f"its equation {equation} has an ellipsis or takes a diagonal")
    return operands, output


def _repeat_along(c: Context, g: str, name: str, axes: list[int]) -> str:
    """Repeat g along new axes to the shape of a tensor."""
    return c.op.Expand(c.op.Unsqueeze(g, c.ints(*axes)), c.op.Shape(name)) if axes else g


def dft(c: Context, g: str) -> Cotangents:
    """`y = F x along an axis of n cells, F the discrete Fourier transform, or its inverse F^H / n`:

    dx = F^H g, or F g / n, without the imaginary part where x is real. The last axis holds real and imaginary parts. A
    one-sided y lacks the second half of the frequencies: there g is 0.
    """
    c.grad_only_for(0)
    shape, inverse = c.shape(c.x()), c.attribute("inverse", 0)
    axis = c.attribute("axis", 1) % len(shape)
    (n,), (m,) = c.sizes(c.x(), [axis]), c.sizes(c.y, [axis])
    if m != (n // 2 + 1 if c.attribute("onesided", 0) else n):
        raise c.unsupported("it cuts or pads its input")
    full = c.op.Pad(g, c.ints(0, n - m), "", c.ints(axis)) if m < n else g
    dx = c.op.Mul(c.op.DFT(full, axis=axis, inverse=1 - inverse), c.constant(1 / n if inverse else n))
    return [c.op.Slice(dx, c.ints(0), c.ints(1), c.ints(-1)) if shape[-1] == 1 else dx]
