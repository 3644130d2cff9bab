# SPDX-License-Identifier: LGPL-2.1-or-later
"""NamedTuple as in typing. Importing typing itself, with what that imports, costs each boot 30 ms of processor time.

Type checkers see the one of typing. Values of this one cannot be pickled, and its methods have no signatures.
"""

TYPE_CHECKING = False  # as typing's

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:

    class _Fields(type):
        """Makes a property of each annotation of a class; assignments in the class are defaults."""

        def __new__(cls, name, bases, namespace):
            made = super().__new__(cls, name, bases, namespace | {"__slots__": ()})
            made._fields = tuple(made.__annotations__)
            made._field_defaults = {field: namespace[field] for field in made._fields if field in namespace}
            for position, field in enumerate(made._fields):
                setattr(made, field, property(lambda self, position=position: self[position]))
            return made

    class NamedTuple(tuple, metaclass=_Fields):
        """A tuple whose members have names."""

        def __new__(cls, *values, **named):
            positional = dict(zip(cls._fields, values, strict=False))
            members = cls._field_defaults | positional | named
            if len(values) > len(cls._fields) or positional.keys() & named.keys() or members.keys() != set(cls._fields):
                raise TypeError(f"{cls.__name__} takes {', '.join(cls._fields)}")
            return tuple.__new__(cls, [members[field] for field in cls._fields])

        def __repr__(self):
            return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._asdict().items())})"

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, **changes):
            return type(self)(**(self._asdict() | changes))
