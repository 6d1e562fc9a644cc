"""Reports of training runs: one HTML file with all pictures and numbers in it, for any browser, offline."""

from mbrl_wrappers.zoo.report.page import build_report

__all__ = ["build_report"]
