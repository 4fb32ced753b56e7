"""The registry of a family: members, their traits, and what unknown names are answered with."""

import pytest

from llmbrain.exceptions import ParameterError
from llmbrain.registry import Registry


@pytest.fixture
def family():
    family = Registry("greeting", loud=False, needs=())

    @family.register("hello", needs=("name",))
    def hello(name):
        """Greet by name.

        More about it.
        """
        return f"hello {name}"

    @family.register("hey", loud=True)
    class Hey:
        """Shout."""

        def __init__(self, times):
            self.times = times

    return family


def test_members_are_called_as_what_was_registered(family):
    assert family["hello"]("you") == "hello you"
    assert family["hey"](3).times == 3
    assert family["hello"].summary == "Greet by name."


def test_decorating_changes_nothing(family):
    def plain():
        """Do nothing."""

    assert family.register("plain")(plain) is plain
    assert family["plain"].value is plain


def test_traits_are_attributes_with_defaults(family):
    assert (family["hello"].loud, family["hello"].needs) == (False, ("name",))
    assert (family["hey"].loud, family["hey"].needs) == (True, ())
    assert family.having(loud=True) == ("hey",)
    assert family.having(loud=False, needs=("name",)) == ("hello",)
    with pytest.raises(AttributeError, match="'colour'"):
        _ = family["hey"].colour


def test_a_family_is_a_mapping_in_the_order_of_registration(family):
    assert list(family) == ["hello", "hey"]
    assert len(family) == 2
    assert dict(family.items())["hey"].name == "hey"
    assert "hey" in family
    assert "ho" not in family
    assert 3 not in family
    assert repr(family) == "Registry('greeting': hello, hey)"


def test_an_unknown_name_is_answered_with_the_choices_and_the_nearest(family):
    with pytest.raises(ParameterError, match=r"^Unknown greeting 'helo'\. Choose from 'hello', 'hey'\. .* 'hello'\?$"):
        family["helo"]
    with pytest.raises(ParameterError, match=r"^Unknown greeting 'xyz'\. Choose from 'hello', 'hey'\.$"):
        family.check("xyz")
    assert family.check("hey") == "hey"


@pytest.mark.parametrize("name", [None, 3, ["hey"], ("hey",), {}])
def test_what_is_not_a_name_is_answered_alike(family, name):
    with pytest.raises(ParameterError, match="Unknown greeting"):
        family[name]


def test_names_are_taken_once(family):
    with pytest.raises(TypeError, match="'hey'"):
        family.register("hey")


def test_traits_that_the_family_does_not_have_are_refused(family):
    with pytest.raises(TypeError, match=r"\['loud', 'needs'\].*\['lowd'\]"):
        family.register("ho", lowd=True)
    assert "ho" not in family


def test_members_can_be_copied(family):
    """Looking for special methods that a member lacks ends in AttributeError, not in a loop."""
    import copy

    assert copy.copy(family["hey"]).name == "hey"
