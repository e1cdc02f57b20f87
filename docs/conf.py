"""How the documentation site is made: `make docs`, warnings are errors, no request to any network."""

from __future__ import annotations

import re
from importlib import import_module

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import featurebank

project = "featurebank"
version = release = featurebank.__version__
copyright = "the featurebank developers"  # noqa: A001 - Sphinx's own name

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
nitpicky = True
default_role = "code"  # of docstrings, which say `name` as Markdown does

myst_heading_anchors = 4  # as GitHub names them, so that a link holds in both
myst_links_external_new_tab = False

html_theme = "furo"
html_title = "featurebank"
html_show_sourcelink = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"top_of_page_buttons": []}

FACES = (
    "featurebank.store",
    "featurebank.probes",
    "featurebank.probes.ood",
    "featurebank.retrieval",
    "featurebank.extract",
)

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {"ArrayLike": "ArrayLike", "NDArray": "NDArray"}  # not the twenty lines they stand for
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_use_ivar = True  # an attribute of a NamedTuple is told once

nitpick_ignore_regex = [
    # Types of other projects: their inventories lie on the network, which no build asks for.
    (r"py:.*", r"(numpy|np|torch|nn|collections\.abc|pathlib|os|typing|types|contextlib|xml)\..*"),
    (r"py:.*", r"Array|ArrayLike|NDArray|Path|Self|Any|Tensor"),
    # What signatures of public names take from the engine's own parts: no user makes one.
    (r"py:class", r"featurebank\.store\.(_disk|_header|_sealed|addresses|entries\.Served|naming)\b.*"),
    (r"py:exc", r"ComputeError"),
    (
        r"py:class",
        r"featurebank\.extract\.(compute|contents|plan|progress|datasets\._place|backbones\.(contract|text_tower))\..*",
    ),
    (r"py:class", r"featurebank\.probes\.ood\.(block|moments)\..*"),
    # Aliases of types, which Python keeps no name of.
    (r"py:class", r"Annotations|Closed|Columns|Features|Metric|Weights|str \| ~collections\.abc.*"),
]


def public_names() -> dict[str, str]:
    """Where each public name is defined, `featurebank.store.reader.FeatureSet`, to where it is documented."""
    homes = {}
    for face in FACES:
        module = import_module(face)
        for name in module.__all__:
            defined = getattr(getattr(module, name), "__module__", face)
            homes[f"{defined}.{name}"] = f"{face}.{name}"
    return homes


HOMES = public_names()


def link(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, shown: nodes.TextElement
) -> nodes.reference | None:
    """Leads an annotation that names the module of a definition to the public name, and an error to its page."""
    target = node.get("reftarget", "")
    home = HOMES.get(target, f"featurebank.extract.errors.{target}" if target.endswith("Error") else None)
    if node.get("refdomain") != "py" or home is None:
        return None
    made = env.domains.python_domain.resolve_xref(env, node["refdoc"], app.builder, "obj", home, node, shown)
    return made if isinstance(made, nodes.reference) else None


COLON = "\ue000"


def before_napoleon(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Takes the bars of a formula, |w|, as what they are, and a property's first colon as no mark of a type."""
    lines[:] = [
        "".join(part if part.startswith("``") else part.replace("|", r"\|") for part in re.split(r"(``.*?``)", line))
        for line in lines
    ]
    if what in ("attribute", "property") and lines:
        lines[0] = lines[0].replace(":", COLON)


def after_napoleon(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Gives the colons back."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def plain_signature(
    app: Sphinx, what: str, name: str, value: object, options: object, signature: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """Writes aliases by their names, types without the bounds of their values, and what a factory makes as `...`."""
    if signature:
        signature = re.sub(r"(?:~?typing\.)?Annotated\[(.+?), Bound\(.*?>\)\]", r"\1", signature)
        signature = re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", signature).replace("<factory>", "...")
    return signature, result


def skip(app: Sphinx, what: str, name: str, value: object, given: bool, options: object) -> bool | None:
    """Leaves out what scikit-learn hangs on every estimator, in its own words and with links into its own manual."""
    return True if re.fullmatch(r"set_\w+_request|get_metadata_routing", name) else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("missing-reference", link)
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
    app.connect("autodoc-process-signature", plain_signature)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
