"""A result as pages: what a scan puts beside its report, and what `arca-diag report` is asked for.

From report and tables alone: no model, no torch, no clock; the same result gives the same bytes.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from arca_diag import tables
from arca_diag.compared import Comparison
from arca_diag.redaction import redact
from arca_diag.report.charts import draw_pictures, plot_files
from arca_diag.report.charts.changes import draw_changes
from arca_diag.report.comparison_document import comparison_document
from arca_diag.report.document import Document
from arca_diag.report.heatmap import HeatMap, heat_map
from arca_diag.report.html import render_html
from arca_diag.report.markdown import render_markdown
from arca_diag.report.pdf import render_pdf
from arca_diag.report.summary import report_document
from arca_diag.results import Report
from arca_diag.tables import Tables

HTML = "report.html"
PDF = "report.pdf"


@dataclass(frozen=True, kw_only=True)
class Pages:
    """A result, ready to be written in any form."""

    document: Document
    heat: HeatMap | None
    plotted: bool = True  # whether its pictures lie as files beside the result

    def html(self) -> bytes:
        """One page that needs nothing else."""
        return render_html(self.document, self.heat).encode("utf-8")

    def pdf(self, font: Path | None = None) -> bytes:
        """The same on paper; `font` has what the font of the package lacks."""
        return render_pdf(self.document, self.heat, font=font)

    def markdown(self) -> str:
        """What fits a comment on a pull request: it says where pictures lie."""
        document = self.document if self.plotted else self.document.without_pictures()
        return render_markdown(document)


def pages(report: Report, frames: Tables) -> Pages:
    """Draw every picture of a result, and put it into a document."""
    return Pages(
        document=report_document(report, draw_pictures(report, frames)),
        heat=heat_map(report, frames),
        plotted=any(name.startswith("plots/") for name in report.files),
    )


def comparison_pages(found: Comparison) -> Pages:
    """The same of two results that were compared."""
    document = comparison_document(found, draw_changes(found))
    return Pages(document=document, heat=None, plotted=False)


def result_files(report: Report, frames: Tables) -> dict[str, bytes]:
    """What a scan puts beside its report and tables, by path in the result folder."""
    made = pages(report, frames)
    return plot_files(made.document.pictures()) | {HTML: made.html(), PDF: made.pdf()}


def without_text(report: Report, frames: Tables) -> tuple[Report, Tables]:
    """The result without any text or token id, names as pseudonyms; again if it has none."""
    content = tables.to_parquet(frames.rollouts, tables.ROLLOUTS)
    salt = hashlib.sha256(b"arca-diag salt" + content).digest()
    return redact(report, frames, salt)
