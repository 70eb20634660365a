"""Every figure and table as a function of records, and how they are kept in papers_figures/."""

from kdlib.errors import extras

with extras():
    from kdlib.reports.figures.accuracies import PUBLISHED, accuracy, comparison, faults
    from kdlib.reports.figures.coldstarts import coldstarts
    from kdlib.reports.figures.heterogeneity import data_distribution, windows_per_client
    from kdlib.reports.figures.index import INDEX, keep, note
    from kdlib.reports.figures.per_step import cost_per_step, time_per_step
    from kdlib.reports.figures.selected import selection
    from kdlib.reports.figures.speedup import speedups
    from kdlib.reports.figures.style import mixed, title
    from kdlib.reports.figures.tables import complete, curves, final_table, find, interval, over_seeds
    from kdlib.reports.figures.timeline import timeline
    from kdlib.reports.figures.tradeoff import tradeoff

__all__ = ["INDEX", "PUBLISHED", "accuracy", "coldstarts", "comparison", "complete", "cost_per_step",
           "curves", "data_distribution", "faults", "final_table", "find", "interval", "keep", "mixed", "note",
           "over_seeds", "selection", "speedups", "time_per_step", "timeline", "title", "tradeoff",
           "windows_per_client"]
