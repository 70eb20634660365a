"""Every figure and table as a function of records, and how they are kept in papers_figures/."""

from kdlib.figures.accuracies import PUBLISHED, accuracy, comparison, faults
from kdlib.figures.coldstarts import coldstarts
from kdlib.figures.heterogeneity import data_distribution, windows_per_client
from kdlib.figures.index import INDEX, keep, note
from kdlib.figures.per_step import cost_per_step, time_per_step
from kdlib.figures.selected import selection
from kdlib.figures.speedup import speedups
from kdlib.figures.style import TITLES, mixed
from kdlib.figures.tables import complete, curves, final_table, find, interval, over_seeds, published
from kdlib.figures.timeline import timeline
from kdlib.figures.tradeoff import tradeoff

__all__ = ["INDEX", "PUBLISHED", "TITLES", "accuracy", "coldstarts", "comparison", "complete", "cost_per_step",
           "curves", "data_distribution", "faults", "final_table", "find", "interval", "keep", "mixed", "note",
           "over_seeds", "published", "selection", "speedups", "time_per_step", "timeline", "tradeoff",
           "windows_per_client"]
