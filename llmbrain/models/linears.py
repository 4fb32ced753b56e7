"""Linears of any kind, and dotted paths of modules."""


def is_linear(module):
    """Whether a module is a linear: it has numbers of inputs and outputs, as quantised linears and Conv1D have."""
    return all(hasattr(module, name) for name in ("in_features", "out_features")) or is_transposed(module)


def is_transposed(module):
    """Whether a linear stores its weight as ``(n_inputs, n_outputs)``, as the Conv1D of GPT-2 does."""
    return hasattr(module, "nx") and hasattr(module, "nf")


def features(linear):
    """Number of inputs and outputs of a linear."""
    return (linear.nx, linear.nf) if is_transposed(linear) else (linear.in_features, linear.out_features)


def weight_of(linear):
    """Weight of a linear as a view of shape ``(n_outputs, n_inputs)``."""
    return linear.weight.T if is_transposed(linear) else linear.weight


def linears(module):
    """Linears inside a module by dotted path, in the order of their definition; those inside a linear are left out."""
    found = {}
    for name, inner in module.named_modules():
        if name and is_linear(inner) and not inside(name, found):
            found[name] = inner
    return found


def inside(path, outer):
    """Whether a path lies below one of the others."""
    return any(path.startswith(name + ".") for name in outer)


def below(path, outer):
    """The rest of a path below another one; None if it does not lie there."""
    if path == outer:
        return ""
    return path[len(outer) + 1 :] if path.startswith(outer + ".") else None


def parent_of(paths):
    """The path of the innermost module that holds all of these."""
    shared = []
    for level in zip(*(path.split(".")[:-1] for path in paths)):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)
