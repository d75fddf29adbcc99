"""Prints a program that names every public object, for a type checker to see."""

import jaxode


def ours(module):
    for name in sorted(vars(module)):
        home = getattr(getattr(module, name), "__module__", None) or ""
        if not name.startswith("_") and home.startswith("jaxode."):
            yield f"{module.__name__}.{name}"


print("import jaxode\n\nprint(jaxode.__version__)")
for module in (jaxode, jaxode.nn, jaxode.training, jaxode.datasets):
    for name in ours(module):
        print(f"print({name})")
