"""Registries: one per family of interchangeable members, such as scores, lesion kinds or control families.

A member is added by decorating one function or class. What it needs is declared beside its name, so that no other
module has to keep a list of names.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .exceptions import ParameterError


def choose(what: str, name: Any, choices: Iterable[str]) -> Any:
    """Return ``name`` if it is one of ``choices``; else raise an error with the choices and the nearest match."""
    choices = list(choices)
    if isinstance(name, str) and name in choices:
        return name
    message = f"Unknown {what} {name!r}. Choose from {', '.join(map(repr, choices))}."
    near = difflib.get_close_matches(str(name), choices, n=1)
    raise ParameterError(f"{message} Did you mean {near[0]!r}?" if near else message)


class Member:
    """One member of a family: a callable with its name and its declared traits, each of which is also an attribute."""

    def __init__(self, name: str, value: Callable, traits: dict[str, Any]) -> None:
        self.name, self.value, self.traits = name, value, traits

    def __getattr__(self, trait: str) -> Any:
        traits = self.__dict__.get("traits", {})  # copying asks for attributes before there are any
        if trait not in traits:
            raise AttributeError(f"A {type(self).__name__} has the traits {sorted(traits)}, not {trait!r}.")
        return traits[trait]

    def __call__(self, *args, **kwargs) -> Any:
        return self.value(*args, **kwargs)

    def __repr__(self) -> str:
        traits = "".join(f", {name}={value!r}" for name, value in self.traits.items())
        return f"Member({self.name!r}{traits})"

    @property
    def summary(self) -> str:
        """First line of the member's docstring."""
        return (self.value.__doc__ or "").strip().partition("\n")[0]


class Registry(Mapping):
    """The members of one family by name.

    Parameters
    ----------
    what : str
        What a member is called in messages, such as ``"score"``.
    **traits
        Traits that a member may declare, with their defaults.

    Examples
    --------
    >>> greetings = Registry("greeting", loud=False)
    >>> @greetings.register("hey", loud=True)
    ... def hey(name):
    ...     return f"HEY {name}"
    >>> greetings["hey"]("you"), greetings["hey"].loud, list(greetings)
    ('HEY you', True, ['hey'])
    >>> greetings["hay"]
    Traceback (most recent call last):
        ...
    llmbrain.exceptions.ParameterError: Unknown greeting 'hay'. Choose from 'hey'. Did you mean 'hey'?
    """

    def __init__(self, what: str, **traits: Any) -> None:
        self.what, self.traits = what, traits
        self._members: dict[str, Member] = {}

    def register(self, name: str, **traits: Any) -> Callable:
        """Decorate a function or class to add it to the family.

        Parameters
        ----------
        name : str
            The name that users pass.
        **traits
            Values of the family's traits; the others keep their defaults.

        Returns
        -------
        callable
            The decorator. It returns what it decorates, unchanged.

        Raises
        ------
        TypeError
            If the name is taken, or a trait is not one of the family's.
        """
        unknown = set(traits) - set(self.traits)
        if unknown:
            raise TypeError(f"A {self.what} has the traits {sorted(self.traits)}, not {sorted(unknown)}.")
        if name in self._members:
            raise TypeError(f"There is a {self.what} named {name!r} already.")

        def add(value: Callable) -> Callable:
            self._members[name] = Member(name, value, {**self.traits, **traits})
            return value

        return add

    def __getitem__(self, name: str) -> Member:
        return self._members[choose(self.what, name, self._members)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __repr__(self) -> str:
        return f"Registry({self.what!r}: {', '.join(self._members)})"

    def check(self, name: str) -> str:
        """Return ``name`` if the family has it.

        Raises
        ------
        ParameterError
            If not; the message lists the choices and the nearest match.
        """
        return self[name].name

    def having(self, **traits: Any) -> tuple[str, ...]:
        """Names of the members whose traits have the given values, such as ``having(random=True)``."""
        return tuple(n for n, m in self._members.items() if all(m.traits[k] == v for k, v in traits.items()))
