"""For MkDocs: ```math blocks become MathML, which browsers draw without a script; and the files of
literate-nav are no pages."""
import re

from latex2mathml.converter import convert
from mkdocs.structure.files import InclusionLevel

FENCE = re.compile(r'^```math\n(.*?)^```$', re.M | re.S)


def on_page_markdown(markdown: str, **_) -> str:
    return FENCE.sub(lambda found: formula(found[1]), markdown)


def on_nav(nav, files, **_):
    for file in files:
        if file.src_uri.endswith('SUMMARY.md'):
            file.inclusion = InclusionLevel.EXCLUDED
    return nav


def formula(latex: str) -> str:
    latex = re.sub(r'\\log(?= )', r'\\log\\,', ' '.join(latex.split()))
    made = convert(latex, display='block').replace(r'\_', '_')
    return f'<div class="formula">{made}</div>\n'
