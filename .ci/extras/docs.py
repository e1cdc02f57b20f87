"""A site of one page is built, in the theme, with the reference of a package that the extra brings."""

import subprocess
import sys
from pathlib import Path

from toy import absent

absent("faiss_gpu", "hdf5plugin", "dask")
Path("docs").mkdir()
Path("docs/conf.py").write_text(
    "extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']\nhtml_theme = 'furo'\n", "utf-8"
)
Path("docs/index.md").write_text(
    "# Store\n\n```{eval-rst}\n.. automodule:: featurebank.store\n   :members:\n```\n", "utf-8"
)
subprocess.run([sys.executable, "-m", "sphinx", "-q", "-b", "html", "docs", "site"], check=True)
page = Path("site/index.html").read_text("utf-8")
assert "FeatureStore" in page
assert "furo" in page
